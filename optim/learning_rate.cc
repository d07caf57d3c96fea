#include "optim/learning_rate.h"

#include <algorithm>
#include <cmath>
#include <numbers>

namespace trireme {

namespace {

// The part of [begin, end) that lies behind `completed`, in [0, 1].
double progress(int64_t completed, int64_t begin, int64_t end) {
  if (completed >= end) return 1.0;
  if (completed <= begin) return 0.0;
  return static_cast<double>(completed - begin) / static_cast<double>(end - begin);
}

}  // namespace

double learning_rate(const OptimizerConfig& optimizer, int64_t total_steps, int64_t completed) {
  const LrScheduleConfig& schedule = optimizer.schedule;
  const double lr = optimizer.lr;
  const int64_t warmup = schedule.warmup_steps;
  if (completed < warmup) return lr * static_cast<double>(completed + 1) / static_cast<double>(warmup);
  const double range = lr - schedule.min_lr;
  switch (schedule.type) {
    case LrScheduleType::constant: return lr;
    case LrScheduleType::linear:
      return lr - range * progress(completed, warmup, schedule.decay_steps.value_or(total_steps));
    case LrScheduleType::cosine: {
      const double x = progress(completed, warmup, schedule.decay_steps.value_or(total_steps));
      return schedule.min_lr + range * 0.5 * (1.0 + std::cos(std::numbers::pi * x));
    }
    case LrScheduleType::wsd: {
      const int64_t decay = schedule.decay_steps.value_or(std::max<int64_t>(1, total_steps / 10));
      return lr - range * progress(completed, std::max(warmup, total_steps - decay), total_steps);
    }
  }
  return lr;
}

}  // namespace trireme
