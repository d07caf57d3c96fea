// Where a tensor lives, and the order of work there.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>

namespace trireme {

class Allocator;
class ThreadPool;
class Tracer;

enum class DeviceType : uint8_t { cpu, cuda };

struct Device {
  DeviceType type = DeviceType::cpu;
  int index = 0;  // the local ordinal of a GPU; 0 for the CPU

  bool operator==(const Device&) const = default;
  std::string str() const;  // "cpu", "cuda:0"
};

// A marker in a stream's order of work. On the CPU every op is finished when its call returns, so an
// event is always complete there. Any thread may ask.
class Event {
 public:
  virtual ~Event() = default;
  virtual void synchronize() = 0;  // the host waits until all work before the marker is done
  virtual bool done() = 0;         // without waiting
  // Device time from `earlier` to this one. REQUIRES: both from record_time of streams of one device, and done.
  virtual double seconds_since(const Event& earlier) const = 0;
};

// Work that was recorded once and is queued again as a whole: a CUDA graph. Its memory stays its own for as long as it
// lives. REQUIRES: the stream that recorded it still exists.
class Graph {
 public:
  virtual ~Graph() = default;
  virtual void launch() = 0;  // on the stream that recorded it
};

// Two marks of one stream, or none.
struct Interval {
  std::unique_ptr<Event> begin;
  std::unique_ptr<Event> end;

  // 0 where there are none. REQUIRES: both were reached.
  double seconds() const { return begin ? end->seconds_since(*begin) : 0.0; }
};

// An ordered queue of work on one device, with what ops need to run there. Every op takes the stream
// first and returns when the work is queued; results may be used by later work on the same stream.
// A stream belongs to one rank and is used by one thread at a time. It must outlive its tensors' use.
class Stream {
 public:
  Stream(Device device, Allocator& allocator, ThreadPool& pool)
      : device_(device), allocator_(&allocator), pool_(pool), name_(device.str()) {}
  virtual ~Stream() = default;
  Stream(const Stream&) = delete;
  Stream& operator=(const Stream&) = delete;

  Device device() const { return device_; }
  Allocator& allocator() const { return *allocator_; }
  ThreadPool& pool() const { return pool_; }  // host threads of this rank; CPU kernels run on them
  // Host memory that this device copies from and to without holding up the caller (pinned, for a GPU). Its blocks are
  // not ordered by the stream: keep one until the copy is done.
  virtual Allocator& host_allocator() { return *allocator_; }
  // Whether ops return before their work is done.
  virtual bool asynchronous() const { return false; }

  // Whether `record_graph` can be called.
  virtual bool records_graphs() const { return false; }
  // Records what `work` queues here instead of running it. What it allocates and frees lies in memory that the graph
  // keeps, so that a launch disturbs nobody. `work` must not wait for the device, read from it, or use other streams.
  virtual std::unique_ptr<Graph> record_graph(const std::function<void()>& work);
  // Whether the caller is inside `record_graph`.
  virtual bool recording() const { return false; }

  // Where ranges of this stream's work are kept (core/trace/tracer.h); none unless a run is traced.
  Tracer* tracer() const { return tracer_; }
  void set_tracer(Tracer* tracer) { tracer_ = tracer; }
  const std::string& name() const { return name_; }  // in traces
  void set_name(std::string name) { name_ = std::move(name); }

  virtual std::unique_ptr<Event> record() = 0;
  virtual std::unique_ptr<Event> record_time() = 0;  // one that remembers when it was reached
  virtual void wait(const Event& event) = 0;         // later work here runs after the event
  virtual void synchronize() = 0;                    // the host waits for all queued work

 protected:
  // Later tensors come from there.
  void use_allocator(Allocator& allocator) { allocator_ = &allocator; }

 private:
  Device device_;
  Allocator* allocator_;
  ThreadPool& pool_;
  Tracer* tracer_ = nullptr;
  std::string name_;
};

// The CPU's stream: work runs at once on the caller and the pool.
class CpuStream final : public Stream {
 public:
  CpuStream(Allocator& allocator, ThreadPool& pool) : Stream(Device{}, allocator, pool) {}
  std::unique_ptr<Event> record() override;
  std::unique_ptr<Event> record_time() override { return record(); }
  void wait(const Event&) override {}
  void synchronize() override {}
};

}  // namespace trireme
