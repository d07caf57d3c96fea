#include "parallel/pipeline/timeline_drawing.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdio>
#include <limits>
#include <nlohmann/json.hpp>

namespace trireme {

namespace {

// ---- Colours ----

struct Colour {
  double red, green, blue;  // 0 … 255
};

constexpr std::array<Colour, 4> kColours = {
    {{31, 95, 175}, {36, 128, 84}, {19, 138, 130}, {214, 116, 28}}};  // by ActionKind: forward, backward, input, weight
constexpr const char* kBubbleColour = "#e4e4e4";
constexpr std::array<const char*, 4> kLegend = {"forward", "backward", "backward, input", "backward, weight"};

Colour mixed_with_white(Colour c, double share) {
  const auto mix = [&](double x) { return x + (255 - x) * share; };
  return {mix(c.red), mix(c.green), mix(c.blue)};
}

std::string hex(Colour c) {
  char text[8];
  std::snprintf(text, sizeof text, "#%02x%02x%02x", static_cast<unsigned>(std::lround(c.red)) & 255u,
                static_cast<unsigned>(std::lround(c.green)) & 255u, static_cast<unsigned>(std::lround(c.blue)) & 255u);
  return text;
}

const char* text_colour(Colour c) { return 0.299 * c.red + 0.587 * c.green + 0.114 * c.blue > 150 ? "#111" : "#fff"; }

std::string number(double value) {
  char text[32];
  std::snprintf(text, sizeof text, "%.6g", value);
  return text;
}

std::string escaped(const std::string& text) {
  std::string out;
  for (const char c : text) out += c == '&' ? "&amp;" : c == '<' ? "&lt;" : c == '>' ? "&gt;" : std::string(1, c);
  return out;
}

// ---- The picture ----

constexpr double kLeft = 76, kRight = 24, kTop = 76, kRowHeight = 30, kBar = 26;
constexpr double kWantedCell = 24;  // width of the shortest computation
constexpr double kMinWidth = 700, kMaxWidth = 20000;

struct Gap {
  double begin, end;
};

// Where a rank does nothing between its first and its last computation.
std::vector<Gap> gaps_of(const std::vector<TimedAction>& actions) {
  std::vector<Gap> gaps;
  double end = std::numeric_limits<double>::quiet_NaN();
  for (const TimedAction& timed : actions) {
    if (!is_compute(timed.action.kind)) continue;
    if (timed.begin > end) gaps.push_back({end, timed.begin});
    end = timed.end;
  }
  return gaps;
}

class Picture {
 public:
  Picture(const Timeline& timeline, const DrawingOptions& options) : timeline_(timeline), options_(options) {
    double shortest = timeline.end();
    for (const auto& rank : timeline.ranks) {
      for (const TimedAction& timed : rank) {
        const double length = timed.end - timed.begin;
        if (is_compute(timed.action.kind) && length > 0) shortest = std::min(shortest, length);
      }
    }
    const double end = std::max(timeline.end(), 1e-12);
    width_ = std::clamp(kWantedCell * end / std::max(shortest, 1e-12), kMinWidth, kMaxWidth);
    scale_ = width_ / end;
    height_ = kRowHeight * static_cast<double>(timeline.ranks.size());
  }

  std::string draw() {
    const double total_width = kLeft + width_ + kRight;
    const double total_height = kTop + height_ + 52;
    out_ = "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"" + number(total_width) + "\" height=\"" +
           number(total_height) + "\" viewBox=\"0 0 " + number(total_width) + " " + number(total_height) +
           "\" font-family=\"Helvetica, Arial, sans-serif\" font-size=\"14\">\n";
    rect(0, 0, total_width, total_height, "#ffffff");
    out_ += "<text x=\"" + number(kLeft) + "\" y=\"26\" font-size=\"18\" font-weight=\"bold\">" + escaped(title()) +
            "</text>\n";
    legend();
    for (size_t r = 0; r < timeline_.ranks.size(); ++r) row(static_cast<int>(r));
    axis();
    return out_ + "</svg>\n";
  }

 private:
  std::string title() const {
    if (!options_.title.empty()) return options_.title;
    return shape_of(timeline_.schedule) + ", bubble " + number(std::round(timeline_.max_bubble() * 1000) / 10) + " %";
  }

  void rect(double x, double y, double width, double height, const std::string& colour, const std::string& tip = "") {
    out_ += "<rect x=\"" + number(x) + "\" y=\"" + number(y) + "\" width=\"" + number(width) + "\" height=\"" +
            number(height) + "\" fill=\"" + colour + "\"";
    out_ += tip.empty() ? "/>\n" : " stroke=\"#fff\" stroke-width=\"1\"><title>" + escaped(tip) + "</title></rect>\n";
  }

  void text(double x, double y, const std::string& words, const char* attributes) {
    out_ += "<text x=\"" + number(x) + "\" y=\"" + number(y) + "\" " + attributes + ">" + escaped(words) + "</text>\n";
  }

  void legend() {
    std::array<bool, 4> used{};
    bool chunks = false;
    for (size_t r = 0; r < timeline_.ranks.size(); ++r) {
      chunks = chunks || timeline_.schedule.chunks_of(static_cast<int>(r)).size() > 1;
      for (const TimedAction& timed : timeline_.ranks[r]) {
        if (is_compute(timed.action.kind)) used[static_cast<size_t>(timed.action.kind)] = true;
      }
    }
    double x = kLeft;
    const auto entry = [&](const std::string& colour, const std::string& words) {
      if (!colour.empty()) rect(x, 42, 16, 16, colour);
      text(x + (colour.empty() ? 0 : 22), 55, words, "fill=\"#111\"");
      x += 46 + 7.4 * static_cast<double>(words.size());
    };
    for (size_t i = 0; i < kColours.size(); ++i) {
      if (used[i]) entry(hex(kColours[i]), kLegend[i]);
    }
    entry(kBubbleColour, "bubble");
    if (chunks) entry("", "darker: later chunk");
  }

  void row(int rank) {
    const double y = kTop + kRowHeight * rank;
    text(kLeft - 10, y + 18, "rank " + std::to_string(rank), "text-anchor=\"end\" fill=\"#111\"");
    const auto& actions = timeline_.ranks[static_cast<size_t>(rank)];
    for (const Gap& gap : gaps_of(actions)) {
      rect(kLeft + gap.begin * scale_, y, (gap.end - gap.begin) * scale_, kBar, kBubbleColour,
           "bubble, " + span(gap.begin, gap.end));
    }
    const std::vector<int> chunks = timeline_.schedule.chunks_of(rank);
    for (const TimedAction& timed : actions) {
      if (is_compute(timed.action.kind)) cell(timed, chunks, y);
    }
  }

  void cell(const TimedAction& timed, const std::vector<int>& chunks, double y) {
    const auto place =
        static_cast<double>(std::find(chunks.begin(), chunks.end(), timed.action.chunk) - chunks.begin());
    const auto later = static_cast<double>(chunks.size()) - 1 - place;
    const double white = chunks.size() > 1 ? 0.62 * later / static_cast<double>(chunks.size() - 1) : 0;
    const Colour colour = mixed_with_white(kColours[static_cast<size_t>(timed.action.kind)], white);
    const double x = kLeft + timed.begin * scale_;
    const double width = (timed.end - timed.begin) * scale_;
    rect(x, y, width, kBar, hex(colour), timed.action.str() + ", " + span(timed.begin, timed.end));
    const std::string label = std::to_string(timed.action.microbatch);
    if (width < 8.0 * static_cast<double>(label.size()) + 2) return;
    const std::string style =
        std::string("text-anchor=\"middle\" pointer-events=\"none\" fill=\"") + text_colour(colour) + "\"";
    text(x + width / 2, y + 18, label, style.c_str());
  }

  std::string span(double begin, double end) const {
    return number(begin) + " to " + number(end) + (options_.unit.empty() ? "" : " " + options_.unit);
  }

  // Round numbers, at least 80 pixels apart.
  void axis() {
    const double least = 80 / scale_;
    double step = std::pow(10.0, std::floor(std::log10(least)));
    while (step < least) step *= step * 2 >= least ? 2 : step * 5 >= least ? 5 : 10;
    const double y = kTop + height_;
    rect(kLeft, y + 2, width_, 1, "#888888");
    for (double t = 0; t <= timeline_.end() * (1 + 1e-9); t += step) {
      rect(kLeft + t * scale_, y + 2, 1, 6, "#888888");
      text(kLeft + t * scale_, y + 24, number(t), "text-anchor=\"middle\" fill=\"#444\"");
    }
    text(kLeft, y + 44, options_.unit.empty() ? "time" : "time, " + options_.unit, "fill=\"#444\"");
  }

  const Timeline& timeline_;
  const DrawingOptions& options_;
  double width_ = 0, height_ = 0;
  double scale_ = 1;  // pixels for each unit of time
  std::string out_;
};

// ---- The trace ----

// Names that the viewers of Chrome know, so that kinds have the colours' meaning there, too.
const char* chrome_colour(ActionKind kind) {
  switch (kind) {
    case ActionKind::forward: return "thread_state_running";
    case ActionKind::backward: return "good";
    case ActionKind::backward_input: return "rail_load";
    case ActionKind::backward_weight: return "thread_state_iowait";
    default: return "generic_work";
  }
}

}  // namespace

std::string shape_of(const Schedule& schedule) {
  const auto counted = [](int n, const char* noun) { return std::to_string(n) + " " + noun + (n == 1 ? "" : "s"); };
  std::string text = schedule.name + ", " + counted(schedule.num_ranks, "rank");
  if (schedule.num_chunks > schedule.num_ranks) {
    text += " × " + counted(schedule.num_chunks / schedule.num_ranks, "chunk");
  }
  text += ", " + counted(schedule.num_microbatches, "microbatch");
  if (text.ends_with("microbatchs")) text.insert(text.size() - 1, "e");
  return text + (schedule.forward_only ? ", forward only" : "");
}

std::string draw_svg(const Timeline& timeline, const DrawingOptions& options) {
  return Picture(timeline, options).draw();
}

std::string draw_perfetto(const Timeline& timeline, const DrawingOptions& options) {
  nlohmann::json events = nlohmann::json::array();
  const auto metadata = [&](const char* kind, size_t rank, int track, const std::string& name) {
    events.push_back({{"ph", "M"}, {"pid", rank}, {"tid", track}, {"name", kind}, {"args", {{"name", name}}}});
  };
  const auto range = [&](size_t rank, int track, const std::string& name, const char* colour, double begin,
                         double end) {
    events.push_back({{"ph", "X"},
                      {"pid", rank},
                      {"tid", track},
                      {"name", name},
                      {"cname", colour},
                      {"ts", begin * options.unit_microseconds},
                      {"dur", (end - begin) * options.unit_microseconds}});
  };
  for (size_t r = 0; r < timeline.ranks.size(); ++r) {
    metadata("process_name", r, 0, "rank " + std::to_string(r));
    metadata("thread_name", r, 0, "computations");
    metadata("thread_name", r, 1, "sends");
    metadata("thread_name", r, 2, "receives");
    for (const Gap& gap : gaps_of(timeline.ranks[r])) range(r, 0, "bubble", "grey", gap.begin, gap.end);
    for (const TimedAction& timed : timeline.ranks[r]) {
      const Action& action = timed.action;
      const int track = is_compute(action.kind) ? 0 : is_send(action.kind) ? 1 : 2;
      range(r, track, std::string(name_of(action.kind)) + " " + std::to_string(action.microbatch),
            chrome_colour(action.kind), timed.begin, timed.end);
      auto& args = events.back()["args"] = {{"chunk", action.chunk}, {"microbatch", action.microbatch}};
      if (action.peer >= 0) args["peer"] = action.peer;
    }
  }
  return nlohmann::json{{"traceEvents", events}, {"displayTimeUnit", "ms"}}.dump();
}

}  // namespace trireme
