#include "core/data/loader.h"

#include <chrono>
#include <mutex>
#include <vector>

#include "core/error.h"

namespace trireme {

// Buffers of one size that come back here when their last user lets go.
class Loader::Buffers {
 public:
  explicit Buffers(size_t count) : count_(count) {}

  static std::shared_ptr<int32_t> take(const std::shared_ptr<Buffers>& self) {
    std::unique_ptr<int32_t[]> buffer;
    {
      std::lock_guard lock(self->mutex_);
      if (!self->free_.empty()) {
        buffer = std::move(self->free_.back());
        self->free_.pop_back();
      } else {
        ++self->made_;
      }
    }
    if (!buffer) buffer = std::make_unique<int32_t[]>(self->count_);
    return {buffer.release(), [self](int32_t* returned) {
              std::lock_guard lock(self->mutex_);
              self->free_.emplace_back(returned);
            }};
  }

  int64_t made() const {
    std::lock_guard lock(mutex_);
    return made_;
  }

 private:
  const size_t count_;
  mutable std::mutex mutex_;
  std::vector<std::unique_ptr<int32_t[]>> free_;
  int64_t made_ = 0;
};

Loader::Loader(const Dataset& dataset, const BatchPlan& plan, const LoaderOptions& options)
    : dataset_(dataset),
      plan_(plan),
      options_(options),
      buffers_(std::make_shared<Buffers>(static_cast<size_t>(4 * plan.micro() * dataset.sequence_length()))),
      queue_(static_cast<size_t>(options.prefetch)) {
  TRIREME_CHECK(options.prefetch >= 1 && options.data_rank >= 0 && options.data_rank < plan.data_degree());
  TRIREME_CHECK(options.first_step >= plan.first_step());
  thread_ = std::thread([this] { run(); });
}

Loader::~Loader() {
  queue_.cancel();
  thread_.join();
}

int64_t Loader::num_buffers() const { return buffers_->made(); }

void Loader::run() {
  try {
    for (int64_t step = options_.first_step; !options_.end_step || step < *options_.end_step; ++step) {
      for (int64_t microbatch = 0; microbatch < plan_.num_microbatches(step); ++microbatch) {
        if (!queue_.push(read(step, microbatch))) return;
      }
    }
    queue_.finish();
  } catch (...) {
    queue_.finish(std::current_exception());
  }
}

HostBatch Loader::read(int64_t step, int64_t microbatch) {
  const int64_t micro = plan_.micro();
  const int64_t length = dataset_.sequence_length();
  const std::shared_ptr<int32_t> buffer = Buffers::take(buffers_);
  HostBatch batch;
  batch.step = step;
  batch.microbatch = microbatch;
  batch.storage = buffer;
  const auto part = [&](int64_t i) {
    return Tensor::borrow(buffer.get() + i * micro * length, {micro, length}, DType::i32);
  };
  batch.tokens = part(0);
  batch.labels = part(1);
  batch.positions = part(2);
  batch.document_start = part(3);
  const int64_t first = plan_.first_sample(step, microbatch, options_.data_rank);
  for (int64_t row = 0; row < micro; ++row) {
    const auto span = [&](const Tensor& tensor) {
      return std::span<int32_t>(tensor.data<int32_t>() + row * length, static_cast<size_t>(length));
    };
    dataset_.read(first + row,
                  {span(batch.tokens), span(batch.labels), span(batch.positions), span(batch.document_start)});
  }
  // A label is always the next token here; padding that counts nothing is added by those who pad.
  batch.num_valid_labels = micro * length;
  return batch;
}

std::optional<HostBatch> Loader::next() {
  const auto begin = std::chrono::steady_clock::now();
  std::optional<HostBatch> batch = queue_.pop();
  waited_seconds_ += std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
  return batch;
}

}  // namespace trireme
