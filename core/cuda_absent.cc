// What stands in for the folders named cuda in a program built without CUDA: no devices, and ops that say so.
#include "core/device/cuda/cuda_device.h"
#include "core/device/cuda/libraries.h"
#include "core/error.h"
#include "core/ops/cuda/kernels.h"

namespace trireme::cuda {

namespace {

constexpr const char* kReason = "this program was built without CUDA";

[[noreturn]] void absent() {
  throw MachineError({.what = kReason, .hint = "run.device: cpu, or a build with TRIREME_CUDA=on"});
}

}  // namespace

int num_devices() { return 0; }
std::string why_no_devices() { return kReason; }
void require_device(int) { absent(); }
DeviceInfo device_info(int) { absent(); }
std::unique_ptr<Allocator> make_device_allocator(int) { absent(); }
std::unique_ptr<Allocator> make_pinned_allocator(int) { absent(); }
std::unique_ptr<Stream> make_stream(int, Allocator&, Allocator&, ThreadPool&, StreamPriority) { absent(); }
LibraryInfo library_info(GpuLibrary) {
  LibraryInfo info;
  info.problem = kReason;
  return info;
}
void require_library(GpuLibrary) { absent(); }
void profiler_start() {}
void profiler_stop() {}

void gelu_forward(Stream&, const Tensor&, ops::Gelu, Tensor&) { absent(); }
void gelu_backward(Stream&, const Tensor&, const Tensor&, ops::Gelu, Tensor&) { absent(); }
void swiglu_forward(Stream&, const Tensor&, Tensor&) { absent(); }
void swiglu_backward(Stream&, const Tensor&, const Tensor&, Tensor&) { absent(); }
void prepare_update(Stream&, const Tensor&, const Tensor&, float, ops::UpdateScalars&) { absent(); }
void adamw_update(Stream&, const ops::AdamW&, const ops::UpdateScalars&, const Tensor&, const Tensor&,
                  ops::AdamWTensors&) {
  absent();
}
void attention_forward(Stream&, const ops::AttentionShape&, const Tensor&, const Tensor&, Tensor&, Tensor&) {
  absent();
}
void attention_backward(Stream&, const ops::AttentionShape&, const Tensor&, const Tensor&, const Tensor&, const Tensor&,
                        const Tensor&, Tensor&) {
  absent();
}
void describe_attention(Stream&, const ops::AttentionShape&, DType, bool, std::string&) { absent(); }
void cross_entropy(Stream&, const Tensor&, const Tensor&, const ops::VocabularyPart&, const Tensor&, const Tensor&,
                   Tensor&, Tensor&) {
  absent();
}
void cross_entropy_stats(Stream&, const Tensor&, const Tensor&, const ops::VocabularyPart&, Tensor&) { absent(); }
void inverse_count(Stream&, const Tensor&, Tensor&) { absent(); }
void fill(Stream&, Tensor&, double) { absent(); }
void copy(Stream&, const Tensor&, Tensor&) { absent(); }
void cast(Stream&, const Tensor&, Tensor&) { absent(); }
void add(Stream&, const Tensor&, const Tensor&, Tensor&) { absent(); }
void accumulate(Stream&, const Tensor&, Tensor&, bool) { absent(); }
void scale(Stream&, Tensor&, float) { absent(); }
void sum(Stream&, const Tensor&, Tensor&, bool) { absent(); }
void sum_squares(Stream&, const Tensor&, Tensor&, bool) { absent(); }
void copy_to_host(Stream&, const Tensor&, void*) { absent(); }
void copy_from_host(Stream&, const void*, Tensor&) { absent(); }
void embedding_forward(Stream&, const Tensor&, const Tensor&, const ops::VocabularyPart&, const Tensor&, const Tensor&,
                       Tensor&) {
  absent();
}
void embedding_backward(Stream&, const Tensor&, const ops::VocabularyPart&, const Tensor&, Tensor&, bool) { absent(); }
void pack_latent_heads(Stream&, const ops::LatentHeads&, const Tensor&, const Tensor&, const Tensor&, const Tensor&,
                       const Tensor&, Tensor&) {
  absent();
}
void unpack_latent_heads(Stream&, const ops::LatentHeads&, const Tensor&, const Tensor&, const Tensor&, Tensor&,
                         Tensor&, Tensor&) {
  absent();
}
void resize_heads(Stream&, const Tensor&, int64_t, Tensor&) { absent(); }
void grouped_linear_forward(Stream&, const Tensor&, const Tensor&, ops::RowOffsets, Tensor&) { absent(); }
void grouped_linear_backward_input(Stream&, const Tensor&, const Tensor&, ops::RowOffsets, Tensor&) { absent(); }
void grouped_linear_backward_weight(Stream&, const Tensor&, const Tensor&, ops::RowOffsets, Tensor&, bool) { absent(); }
void light_factors(Stream&, const Tensor&, const Tensor&, const Tensor&, const ops::LightChoices&, Tensor&, Tensor&) {
  absent();
}
void light_gradients(Stream&, const Tensor&, const Tensor&, const Tensor&, const Tensor&, const Tensor&,
                     const ops::LightChoices&, Tensor&, Tensor&) {
  absent();
}
void add_light_rows(Stream&, const Tensor&, const Tensor&, const Tensor&, const Tensor&, Tensor&) { absent(); }
void linear_forward(Stream&, const Tensor&, const Tensor&, const Tensor&, Tensor&) { absent(); }
void linear_add_forward(Stream&, const Tensor&, const Tensor&, const Tensor&, const Tensor&, Tensor&) { absent(); }
void linear_backward_input(Stream&, const Tensor&, const Tensor&, Tensor&, bool) { absent(); }
void linear_backward_weight(Stream&, const Tensor&, const Tensor&, Tensor&, Tensor&, bool) { absent(); }
void linear_gelu_forward(Stream&, const Tensor&, const Tensor&, const Tensor&, ops::Gelu, Tensor&, Tensor&, bool&) {
  absent();
}
void linear_gelu_backward_input(Stream&, const Tensor&, const Tensor&, const Tensor&, ops::Gelu, Tensor&) { absent(); }
void sort_by_expert(Stream&, const Tensor&, int64_t, Tensor&, Tensor&, Tensor&) { absent(); }
void gather_rows(Stream&, const Tensor&, const Tensor&, int64_t, Tensor&) { absent(); }
void sum_rows(Stream&, const Tensor&, const Tensor&, Tensor&, bool) { absent(); }
void shift_positions(Stream&, const Tensor&, const Tensor&, const Tensor&, Tensor&) { absent(); }
void add_scaled_rows(Stream&, const Tensor&, const Tensor&, Tensor&) { absent(); }
void row_dots(Stream&, const Tensor&, const Tensor&, Tensor&) { absent(); }
void weighted_swiglu_forward(Stream&, const Tensor&, const Tensor&, Tensor&) { absent(); }
void weighted_swiglu_backward(Stream&, const Tensor&, const Tensor&, const Tensor&, Tensor&, Tensor&) { absent(); }
void export_gemm_algorithms(Stream&, std::string&) { absent(); }
void import_gemm_algorithms(Stream&, const std::string&, bool&) { absent(); }
void norm_forward(Stream&, const Tensor&, const Tensor&, const Tensor&, float, Tensor&, ops::NormStats&) { absent(); }
void add_norm_forward(Stream&, const Tensor&, const Tensor&, const Tensor&, const Tensor&, float, Tensor&, Tensor&,
                      ops::NormStats&) {
  absent();
}
void norm_backward(Stream&, const Tensor&, const Tensor&, const Tensor&, const ops::NormStats&, const Tensor&, Tensor&,
                   Tensor&, Tensor&) {
  absent();
}
void qk_norm_forward(Stream&, const Tensor&, const Tensor&, const Tensor&, int64_t, int64_t, float, Tensor&, Tensor&) {
  absent();
}
void qk_norm_backward(Stream&, Tensor&, const Tensor&, const Tensor&, const Tensor&, const Tensor&, int64_t, int64_t,
                      Tensor&, Tensor&) {
  absent();
}
void rotary(Stream&, Tensor&, const Tensor&, const Tensor&, int64_t, int64_t, bool) { absent(); }
void copy_row_bytes(Stream&, const Tensor&, int64_t, Tensor&, int64_t, int64_t) { absent(); }
void router_scores(Stream&, const Tensor&, ops::Scoring, Tensor&) { absent(); }
void choose_top_k(Stream&, const Tensor&, const Tensor&, const ops::TopKRule&, Tensor&) { absent(); }
void route_weights(Stream&, const Tensor&, const Tensor&, const ops::WeightRule&, Tensor&) { absent(); }
void router_statistics(Stream&, const Tensor&, const Tensor&, ops::Scoring, const Tensor&, const ops::TokenStretches&,
                       Tensor&, Tensor&, Tensor&) {
  absent();
}
void balance_loss(Stream&, const Tensor&, const Tensor&, const Tensor&, double, Tensor&, Tensor&) { absent(); }
void router_backward(Stream&, const Tensor&, const Tensor&, ops::Scoring, const Tensor&, const ops::WeightRule&,
                     const Tensor&, const Tensor&, const ops::TokenStretches&, float, Tensor&) {
  absent();
}
void update_balance_bias(Stream&, const Tensor&, float, const Tensor&, Tensor&) { absent(); }

}  // namespace trireme::cuda
