#include "core/device/device.h"

#include <chrono>

#include "core/error.h"

namespace trireme {

namespace {

class FinishedEvent final : public Event {
 public:
  void synchronize() override {}
  bool done() override { return true; }
  double seconds_since(const Event& earlier) const override {
    return std::chrono::duration<double>(time_ - static_cast<const FinishedEvent&>(earlier).time_).count();
  }

 private:
  std::chrono::steady_clock::time_point time_ = std::chrono::steady_clock::now();
};

}  // namespace

std::string Device::str() const { return type == DeviceType::cpu ? "cpu" : "cuda:" + std::to_string(index); }

std::unique_ptr<Graph> Stream::record_graph(const std::function<void()>&) {
  TRIREME_CHECK(false, "this device records no graphs");
  return nullptr;
}

std::unique_ptr<Event> CpuStream::record() { return std::make_unique<FinishedEvent>(); }

}  // namespace trireme
