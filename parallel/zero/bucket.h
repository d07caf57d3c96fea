// A bucket: the flat memory of weights of one unit. Values, gradients, fp32 master weights and Adam's moments lie in the
// same order, so that a collective or an optimizer pass is one call over the whole. (Rajbhandari et al. 2020, "ZeRO")
//
// Each weight begins at a multiple of 64 elements; the gaps, the padded end and the padding of a rank's part of a
// parameter stay zero in every buffer. The whole divides into equal shards, one for each rank of the data_shard group (of
// experts: expert_shard), whose bounds are multiples of 64. `parallel.zero` says what of it a rank keeps:
//
//   stage  value   gradient                                       master, m, v
//   0      full    full                                           full
//   1      full    full, of which the shard is reduced            shard
//   2      full    shard; full while those of a microbatch exist  shard
//   3      shard; full while gathered    as 2                     shard
//
// Buffers (Role::buffer) lie in buckets of their own, which have values and nothing else, all of them on every rank.
//
// With one shard there is nothing to save, and every stage is stored as 0. With fp32 compute, master and value are the
// same memory (the shard of it); with bf16 compute the master may be left out, and then the values are all there is of
// the weights.
//
// Thread safety: none; one rank's thread. Host arrays of a parameter are global: its whole shape, without padding.
#pragma once

#include <string>
#include <vector>

#include "parallel/parameter.h"

namespace trireme {

// Where this rank's part of a parameter lies in its bucket, padding included.
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
    int stage = 0;                      // parallel.zero
    int64_t num_shards = 1;             // ranks of the group of shard_axis()
    int64_t shard = 0;                  // this rank's place in it
    bool with_optimizer_states = true;  // m, v and the master; without them there are no gradients either
    bool with_master = true;            // where compute is bf16; REQUIRES: true where it is f32
    // The weights are a second use of those of this bucket (the loss head's of a tied table): they have the same values,
    // and gradients of their own, which are added to the first one's after the reduction over the data ranks.
    Bucket* values_of = nullptr;
    // The same bucket lies on the first and the last pipeline stage; each makes a part of the gradient.
    bool on_both_ends = false;
  };

  // Allocates on the stream's device, zeroes, and points the weights' and parameters' tensors into the buffers.
  // The weights must outlive the bucket; of two uses, the first outlives the second.
  Bucket(Stream& stream, std::string name, std::vector<Weight*> weights, const Options& options);
  Bucket(const Bucket&) = delete;
  Bucket& operator=(const Bucket&) = delete;

  // Initial values: element i of the global parameter is a pure function of (seed, name, i), whatever the layout.
  void initialize(Stream& stream, uint64_t seed);

  // Copies one parameter (a part of a weight of this bucket) from or to a global array of fp32 on the host; `kind` selects
  // the buffer. `read` fills in the elements that this rank holds, its shard of its part, and leaves the others alone;
  // `write` takes those and ignores the others. `master` is the most precise copy of the weights that there is; writing
  // it writes every copy (of a stage below 3: also the values outside the shard). What a buffer in bf16 gave, it takes
  // back unchanged. A buffer that the bucket doesn't have is read and written as one without elements.
  enum class Buffer : uint8_t { master, gradient, first_moment, second_moment };
  void read(Stream& stream, const Parameter& parameter, Buffer kind, float* host) const;
  void write(Stream& stream, const Parameter& parameter, Buffer kind, const float* host);
  // Whether such a buffer belongs to the state of a parameter: of buffers of the model there are values alone.
  static bool belongs(const Parameter& parameter, Buffer kind) {
    return !parameter.is_buffer() || kind == Buffer::master;
  }
  // Elements [position, position + n) of this bucket from fp32 on the host, in every copy of them that this rank holds.
  void store(Stream& stream, Buffer kind, int64_t position, int64_t n, const float* host);
  // What of a parameter lies in this rank's shard, flat; may be empty, and holds padding. REQUIRES: the bucket has that
  // buffer.
  Tensor shard_of(const Parameter& parameter, Buffer kind) const;

  const std::string& name() const { return name_; }
  int64_t numel() const { return numel_; }  // with padding
  int stage() const { return stage_; }      // as stored: 0 where there is one shard
  const std::vector<Weight*>& weights() const { return weights_; }
  const std::vector<BucketSegment>& segments() const { return segments_; }  // one for each parameter, ascending
  AxisSet partial_axes() const { return partial_; }                         // of the gradients, before reduction
  // Axes along which the ranks that hold equal copies of what this one stores differ; of the pipeline's two ends see below.
  AxisSet copy_axes() const;
  Axis shard_axis() const { return segments_.front().parameter->shard_axis(); }
  Axis replica_axis() const { return segments_.front().parameter->replica_axis(); }
  bool is_buffer() const { return segments_.front().parameter->is_buffer(); }
  bool on_both_ends() const { return on_both_ends_; }
  Bucket* values_of() const { return values_of_; }

  // What this rank stores of the bucket from stage 1 on; everything in stage 0.
  int64_t shard_begin() const { return shard_begin_; }
  int64_t shard_end() const { return shard_end_; }
  // This rank's own share, among the ranks along shard_axis(), of the reduced gradient, in every stage: who sums all shares
  // counts each element once.
  Tensor own_gradient() const;

  Tensor& value() { return value_; }              // full; undefined while it isn't there
  Tensor& value_shard() { return value_shard_; }  // undefined in a second use
  Tensor& gradient() { return gradient_; }        // full; undefined while it isn't there
  Tensor& gradient_shard() { return gradient_shard_; }
  Tensor& master() { return master_; }  // the shard, as the following; undefined without states, or without a master
  Tensor& first_moment() { return m_; }
  Tensor& second_moment() { return v_; }

  // ---- Full buffers that come and go ----

  // Stage 3: memory for the gathered values, in which the weights lie from now on; and its end.
  void open_value(Stream& stream);
  void drop_value();
  // Once before each step: no gradient has been written yet.
  void begin_step();
  // Stages 2 and 3: memory for the gradients of one microbatch, none of them written.
  void open_gradient(Stream& stream);
  // Zeroes the gradients of weights that no op wrote since begin_step or open_gradient.
  void finish_gradients(Stream& stream);
  // Stages 2 and 3: hands the full buffer over.
  Tensor take_gradient();

 private:
  void place_weights();
  void allocate(Stream& stream, const Options& options);
  // Points the weights' tensors into `flat`, or nowhere.
  void point_values(const Tensor& flat);
  void point_gradients(const Tensor& flat);
  const BucketSegment& segment_of(const Parameter& parameter) const;
  const Tensor& shard(Buffer kind) const;

  std::string name_;
  std::vector<Weight*> weights_;
  std::vector<int64_t> offsets_;  // of each weight
  std::vector<BucketSegment> segments_;
  AxisSet partial_;
  AxisSet cut_;  // of the values
  DType compute_;
  DType gradients_;
  int64_t numel_ = 0;
  int stage_ = 0;
  int64_t shard_begin_ = 0;
  int64_t shard_end_ = 0;
  int64_t own_begin_ = 0;  // this rank's share of the gradient norm
  int64_t own_numel_ = 0;
  bool on_both_ends_ = false;
  Bucket* values_of_ = nullptr;
  std::vector<Bucket*> second_uses_;
  Tensor value_;
  Tensor value_shard_;
  Tensor gradient_;
  Tensor gradient_shard_;
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
