// The ops of one microbatch of a model at their shapes, each with what it must move and compute: what the op benchmark
// times, so that a step can be taken apart.
#pragma once

#include <cstdint>
#include <functional>
#include <string>

#include "core/config/config.h"
#include "core/ops/attention.h"
#include "core/tensor/tensor.h"

namespace trireme {

// Makes an op's operands, full of random numbers, and counts the bytes that a call must at least move: each operand
// read once, each result written once.
class Operands {
 public:
  explicit Operands(Stream& stream) : stream_(stream) {}

  Tensor read(Shape shape, DType dtype, double spread = 1.0);
  Tensor write(Shape shape, DType dtype);
  Tensor update(Shape shape, DType dtype);            // read and written
  Tensor ids(int64_t count, int64_t bound);           // i32, uniform below `bound`
  Tensor places(int64_t count, int64_t period);       // i32: 0, 1, …, period − 1, 0, …
  void add_bytes(int64_t bytes) { bytes_ += bytes; }  // of operands that only a part is read of
  int64_t bytes() const { return bytes_; }

 private:
  Tensor filled(Shape shape, DType dtype, double spread);

  Stream& stream_;
  int64_t bytes_ = 0;
};

using OpCall = std::function<void(Stream&)>;

struct OpCase {
  std::string name;   // "up forward"
  std::string kind;   // gemm, attention or memory: what bounds it
  std::string shape;  // for the reader
  int64_t calls = 1;  // in one microbatch
  double flops = 0;   // of one call; 0: not counted
  std::function<OpCall(Operands&)> make;
};

// That of a microbatch.
ops::AttentionShape attention_shape(const Config& config);

// y = x·wᵀ of [tokens, in] and [out, in].
OpCase gemm_case(const std::string& name, int64_t tokens, int64_t in, int64_t out, DType dtype, int64_t calls);
OpCase copy_case(int64_t bytes);

// Shows every op of a microbatch of `config.batch.micro` sequences, the optimizer's excepted. A case may be used inside
// of `visit` only.
void visit_model_cases(const Config& config, DeviceType device, DType compute,
                       const std::function<void(const OpCase&)>& visit);

}  // namespace trireme
