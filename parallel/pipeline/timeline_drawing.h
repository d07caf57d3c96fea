// Pictures of a timeline: an SVG for people, and JSON that Perfetto (ui.perfetto.dev) and chrome://tracing open.
#pragma once

#include <string>

#include "parallel/pipeline/timeline.h"

namespace trireme {

struct DrawingOptions {
  std::string title;               // over the SVG; empty: the schedule's shape and bubble
  std::string unit;                // of the timeline's times, for the axis: "ms"; empty: none
  double unit_microseconds = 1e3;  // in the JSON
};

// One row for each rank: its computations in the colour of their kind, later chunks of a rank in a darker shade,
// the microbatch's number where there is room; bubbles in grey. Pointing at one shows what it is.
std::string draw_svg(const Timeline& timeline, const DrawingOptions& options = {});

// The same with the transfers, on a track of their own for each rank.
std::string draw_perfetto(const Timeline& timeline, const DrawingOptions& options = {});

// "1f1b, 4 ranks, 8 microbatches"; chunks are named where a rank has several.
std::string shape_of(const Schedule& schedule);

}  // namespace trireme
