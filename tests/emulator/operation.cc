#include "tests/emulator/operation.h"

#include <cstring>

#include "tests/emulator/race.h"
#include "tests/emulator/settings.h"
#include "tests/emulator/stream_thread.h"

namespace emulator {

Mark::Mark() : token(race::new_token()) {}
Mark::~Mark() { race::delete_token(token); }

Graph::Graph() { tallies().graphs += 1; }
Graph::~Graph() { tallies().graphs -= 1; }

namespace {

class Record final : public Operation {
 public:
  explicit Record(Ref<Mark> mark) : Operation("cudaEventRecord", 0), mark_(std::move(mark)) {}
  void run(StreamThread&) override {
    mark_->seconds = now_seconds();
    race::release(mark_->token);
    mark_->reached.advance();
  }
  bool always() const override { return true; }

 private:
  Ref<Mark> mark_;
};

class Wait final : public Operation {
 public:
  explicit Wait(Ref<Mark> mark) : Operation("cudaStreamWaitEvent", 0), mark_(std::move(mark)) {}
  void run(StreamThread&) override {
    mark_->reached.wait(1);
    race::acquire(mark_->token);
  }
  bool always() const override { return true; }

 private:
  Ref<Mark> mark_;
};

class HostCall final : public Operation {
 public:
  HostCall(const char* name, std::function<void()> call)
      : Operation("", kAllDevices), own_name_(name), call_(std::move(call)) {}
  void run(StreamThread&) override { call_(); }
  const char* name() const override { return own_name_.c_str(); }

 private:
  std::string own_name_;
  std::function<void()> call_;
};

class GraphRun final : public Operation {
 public:
  explicit GraphRun(Ref<Graph> graph) : Operation("cudaGraphLaunch", 0), graph_(std::move(graph)) {}
  void run(StreamThread& thread) override {
    for (const std::unique_ptr<Operation>& operation : graph_->operations) thread.run_nested(*operation);
  }

 private:
  Ref<Graph> graph_;
};

// The C library's functions, which the sanitizers know.
class Copy final : public Operation {
 public:
  Copy(void* to, const void* from, size_t bytes, std::unique_ptr<char[]> keep, DeviceMask devices)
      : Operation("cudaMemcpyAsync", devices), to_(to), from_(from), bytes_(bytes), keep_(std::move(keep)) {}
  void run(StreamThread&) override { std::memmove(to_, from_, bytes_); }

 private:
  void* to_;
  const void* from_;
  size_t bytes_;
  std::unique_ptr<char[]> keep_;
};

class Set final : public Operation {
 public:
  Set(void* data, int value, size_t bytes, DeviceMask devices)
      : Operation("cudaMemsetAsync", devices), data_(data), value_(value), bytes_(bytes) {}
  void run(StreamThread&) override { std::memset(data_, value_, bytes_); }

 private:
  void* data_;
  int value_;
  size_t bytes_;
};

}  // namespace

std::unique_ptr<Operation> make_record(Ref<Mark> mark) { return std::make_unique<Record>(std::move(mark)); }
std::unique_ptr<Operation> make_wait(Ref<Mark> mark) { return std::make_unique<Wait>(std::move(mark)); }
std::unique_ptr<Operation> make_host(const char* name, std::function<void()> call) {
  return std::make_unique<HostCall>(name, std::move(call));
}
std::unique_ptr<Operation> make_graph_run(Ref<Graph> graph) { return std::make_unique<GraphRun>(std::move(graph)); }
std::unique_ptr<Operation> make_copy(void* to, const void* from, size_t bytes, std::unique_ptr<char[]> keep,
                                     DeviceMask devices) {
  return std::make_unique<Copy>(to, from, bytes, std::move(keep), devices);
}
std::unique_ptr<Operation> make_set(void* data, int value, size_t bytes, DeviceMask devices) {
  return std::make_unique<Set>(data, value, bytes, devices);
}

}  // namespace emulator
