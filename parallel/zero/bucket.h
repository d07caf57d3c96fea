// A bucket: the flat memory of the weights of one unit. Values, gradients, fp32 master weights and Adam's moments
// are one tensor each, in the same order, so that a collective or an optimizer pass is one call over the whole.
//
// Each weight begins at a multiple of 64 elements; the gaps and the padded end stay zero in every buffer. The length
// divides by the data degree. With fp32 compute, `value` and `master` are the same memory; with bf16 compute the master
// may be left out, and then the values are all there is of the weights. (Rajbhandari et al. 2020, "ZeRO")
#pragma once

#include <string>
#include <vector>

#include "parallel/parameter.h"

namespace trireme {

// Where a parameter lies in its bucket.
struct BucketSegment {
  int64_t begin = 0;
  int64_t end = 0;
  const Parameter* parameter = nullptr;
};

class Bucket {
 public:
  struct Options {
    DType compute = DType::f32;         // of `value`
    DType gradients = DType::f32;       // f32 or bf16
    DType states = DType::f32;          // of m and v, f32 or bf16
    int64_t divisor = 1;                // the length is a multiple of it
    bool with_optimizer_states = true;  // m and v, and the master
    bool with_master = true;            // where compute is bf16; REQUIRES: true where it is f32
  };

  // Allocates on the stream's device, zeroes, and points the weights' and parameters' tensors into the buffers.
  // The weights must outlive the bucket.
  Bucket(Stream& stream, std::string name, std::vector<Weight*> weights, const Options& options);

  // Initial values: element i of a parameter is a pure function of (seed, name, i), whatever the layout.
  void initialize(Stream& stream, uint64_t seed);

  // Called once before each step: no gradient has been written yet.
  void begin_step();
  // Zeroes the gradients of weights that no op of this step wrote.
  void finish_gradients(Stream& stream);

  // Copies one parameter (a part of a weight of this bucket) from or to host fp32; `kind` selects the buffer. `master`
  // is the most precise copy of the weights that there is; writing it writes every copy. What a buffer in bf16 gave,
  // it takes back unchanged.
  enum class Buffer : uint8_t { master, gradient, first_moment, second_moment };
  void read(Stream& stream, const Parameter& parameter, Buffer kind, float* host) const;
  void write(Stream& stream, const Parameter& parameter, Buffer kind, const float* host);

  const std::string& name() const { return name_; }
  int64_t numel() const { return value_.numel(); }  // with padding
  const std::vector<Weight*>& weights() const { return weights_; }
  const std::vector<BucketSegment>& segments() const { return segments_; }  // one for each parameter, ascending
  AxisSet reduce_axes() const { return reduce_axes_; }                      // over which the gradients are partial

  Tensor& value() { return value_; }
  Tensor& gradient() { return gradient_; }
  Tensor& master() { return master_; }  // undefined without states, or without a master
  Tensor& first_moment() { return m_; }
  Tensor& second_moment() { return v_; }
  // The view of `flat` (any of the above) at `parameter`.
  Tensor view_of(const Tensor& flat, const Parameter& parameter) const;

 private:
  int64_t offset_of(const Parameter& parameter) const;
  const Tensor& buffer(Buffer kind) const;

  std::string name_;
  std::vector<Weight*> weights_;
  std::vector<int64_t> offsets_;  // of each weight
  std::vector<BucketSegment> segments_;
  AxisSet reduce_axes_;
  DType compute_;
  Tensor value_;
  Tensor gradient_;
  Tensor master_;
  Tensor m_;
  Tensor v_;
};

// A parameter and the bucket it lies in.
struct ParameterRef {
  Parameter* parameter = nullptr;
  Bucket* bucket = nullptr;
  bool speaks = true;  // of the ranks that hold equal copies, this one counts
};

}  // namespace trireme
