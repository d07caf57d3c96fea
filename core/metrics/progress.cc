#include "core/metrics/progress.h"

#include <algorithm>

#include "core/metrics/format.h"

namespace trireme {

std::string progress_text(const StepMetrics& m, int64_t num_steps, int num_ranks, double seconds_left) {
  const std::string total = std::to_string(num_steps);
  std::string step = std::to_string(m.step);
  step.insert(0, total.size() > step.size() ? total.size() - step.size() : 0, ' ');
  // What matters most comes first: a narrow terminal cuts the end.
  std::string text =
      "step " + step + "/" + total + " | left " + human_duration(seconds_left) + " | loss " + fixed(m.loss, 4);
  if (m.valid_loss) text += " | valid " + fixed(*m.valid_loss, 4);
  text += " | lr " + scientific(m.lr) + " | norm " + fixed(m.grad_norm, 3);
  text += " | " + human_count(m.tokens_per_second) + " tok/s";
  if (m.tflops_per_rank > 0) text += " | " + fixed(m.tflops_per_rank * num_ranks, 2) + " TFLOP/s";
  if (m.mfu > 0) text += " (" + fixed(100 * m.mfu, 0) + "% of peak)";
  if (m.memory_bytes > 0) text += " | " + human_bytes(m.memory_bytes);
  return text;
}

ProgressLine::ProgressLine(Console& console, int64_t num_steps, int num_ranks)
    : console_(console), num_steps_(num_steps), num_ranks_(num_ranks) {}

ProgressLine::~ProgressLine() { end(); }

void ProgressLine::show(const StepMetrics& metrics) {
  ++num_shown_;
  if (num_shown_ <= 2) {
    mean_seconds_ = metrics.step_seconds;
  } else {
    const double weight = std::max(0.05, 1.0 / static_cast<double>(num_shown_ - 1));
    mean_seconds_ += weight * (metrics.step_seconds - mean_seconds_);
  }
  const auto steps_left = static_cast<double>(std::max<int64_t>(0, num_steps_ - metrics.step));
  const std::string text = progress_text(metrics, num_steps_, num_ranks_, steps_left * mean_seconds_);
  if (console_.terminal()) {
    console_.live(text);
  } else {
    console_.line(text);
  }
}

void ProgressLine::end() { console_.end_live(); }

}  // namespace trireme
