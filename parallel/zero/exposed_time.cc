#include "parallel/zero/exposed_time.h"

#include <utility>

namespace trireme {

void ExposedTime::wait(Work& work, Stream& stream) {
  Interval interval;
  interval.begin = stream.record_time();
  work.wait(stream);
  interval.end = stream.record_time();
  waits_.push_back(std::move(interval));
}

void ExposedTime::add(ExposedTime other) {
  for (Interval& interval : other.waits_) waits_.push_back(std::move(interval));
}

double ExposedTime::seconds() const {
  double sum = 0;
  for (const Interval& interval : waits_) sum += interval.seconds();
  return sum;
}

}  // namespace trireme
