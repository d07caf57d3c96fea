#include "launcher/measured_timeline.h"

#include <cstdio>

#include "core/metrics/files.h"
#include "parallel/pipeline/timeline_drawing.h"

namespace trireme {

namespace {

constexpr int64_t kColumns = 5;  // kind, chunk, microbatch, begin, end

Tensor rows_tensor(std::vector<double>& rows) {
  return Tensor::borrow(rows.data(), {static_cast<int64_t>(rows.size())}, DType::f64);
}

std::vector<double> to_rows(const std::vector<TimedAction>& actions) {
  std::vector<double> rows;
  for (const TimedAction& a : actions) {
    rows.insert(rows.end(), {static_cast<double>(a.action.kind), static_cast<double>(a.action.chunk),
                             static_cast<double>(a.action.microbatch), a.begin * 1e3, a.end * 1e3});
  }
  return rows;
}

std::vector<TimedAction> to_actions(const std::vector<double>& rows) {
  std::vector<TimedAction> actions;
  for (size_t i = 0; i + kColumns <= rows.size(); i += kColumns) {
    TimedAction& a = actions.emplace_back();
    a.action.kind = static_cast<ActionKind>(static_cast<int>(rows[i]));
    a.action.chunk = static_cast<int>(rows[i + 1]);
    a.action.microbatch = static_cast<int>(rows[i + 2]);
    a.begin = rows[i + 3];
    a.end = rows[i + 4];
  }
  return actions;
}

}  // namespace

std::filesystem::path write_measured_timeline(RankContext& rank, const Schedule& schedule,
                                              const std::vector<TimedAction>& own,
                                              const std::filesystem::path& directory, int64_t step) {
  char name[48];
  std::snprintf(name, sizeof name, "timeline-step-%08lld.svg", static_cast<long long>(step));
  const std::filesystem::path svg = directory / name;
  const Mesh& mesh = rank.mesh();
  Stream& stream = rank.host_stream();
  std::vector<double> rows = to_rows(own);
  if (!rank.is_main()) {
    if (mesh.data_rank() != 0 || mesh.coordinate(Axis::tensor) != 0) return svg;
    rank.world().send_recv({Transfer::send(rows_tensor(rows), 0)}, stream)->wait(stream);
    return svg;
  }
  Timeline timeline;
  timeline.schedule = schedule;
  timeline.ranks.push_back(to_actions(rows));
  for (int64_t stage = 1; stage < mesh.degree(Axis::pipeline); ++stage) {
    const int peer = static_cast<int>(mesh.at(Axis::pipeline, stage).rank());
    // A rank's program has as many computations as the schedule says.
    int64_t count = 0;
    for (const Action& action : schedule.program(static_cast<int>(stage))) {
      if (is_compute(action.kind)) count += kColumns;
    }
    rows.assign(static_cast<size_t>(count), 0.0);
    rank.world().send_recv({Transfer::recv(rows_tensor(rows), peer)}, stream)->wait(stream);
    timeline.ranks.push_back(to_actions(rows));
  }
  std::error_code error;
  std::filesystem::create_directories(directory, error);
  if (error) fail_file("can't make the directory of the pipeline's timeline", directory, error.value());
  const DrawingOptions options{.title = {}, .unit = "ms, measured"};
  replace_file(svg, draw_svg(timeline, options));
  replace_file(std::filesystem::path(svg).replace_extension(".json"), draw_perfetto(timeline, options));
  return svg;
}

}  // namespace trireme
