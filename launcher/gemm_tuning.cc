#include "launcher/gemm_tuning.h"

#include <fstream>
#include <iterator>
#include <span>

#include "core/formats/atomic_file.h"
#include "core/metrics/run_directory.h"
#include "core/ops/gemm_algorithms.h"
#include "parallel/comm/texts.h"

namespace trireme {

namespace {

std::string read_if_there(const std::filesystem::path& file) {
  std::ifstream in(file, std::ios::binary);
  return {std::istreambuf_iterator<char>(in), {}};
}

}  // namespace

void tune_gemms(RankContext& rank, const Config& config, TrainStep& step, Logger& logger) {
  if (rank.stream().device().type == DeviceType::cpu) return;
  const std::filesystem::path file = RunDirectory(config.run.dir).gemm_algorithms_file();
  Stream& host = rank.host_stream();
  const std::string recorded = broadcast_text(rank.world(), host, rank.is_main() ? read_if_there(file) : "", 0);
  if (!ops::import_gemm_algorithms(rank.stream(), recorded) && rank.is_main()) {
    logger.warn(file.string() +
                " was recorded on another GPU or library: the products are timed again, and the last "
                "bits of the run change from here on");
  }
  // Every rank times what is not recorded yet. Pipeline stages and tensor ranks may have products of their own, data ranks
  // have the same: the first ones speak. Where several have a product, the word of the lowest counts.
  step.warm_up(config.batch.micro, config.data.sequence_length, config.data.mask_documents);
  const std::string own = ops::export_gemm_algorithms(rank.stream());
  const Mesh& mesh = rank.mesh();
  const int64_t to_first_data_rank = mesh.data_rank() * mesh.degree(Axis::tensor) * mesh.degree(Axis::context);
  std::vector<int64_t> roots = mesh.group({Axis::tensor, Axis::pipeline});
  for (auto root = roots.rbegin(); root != roots.rend(); ++root) {
    const int64_t speaker = *root - to_first_data_rank;
    const std::string text = speaker == rank.rank() ? own : "";
    ops::import_gemm_algorithms(rank.stream(), broadcast_text(rank.world(), host, text, static_cast<int>(speaker)));
  }
  const std::string chosen = ops::export_gemm_algorithms(rank.stream());
  if (!rank.is_main() || chosen == recorded) return;
  std::filesystem::create_directories(file.parent_path());
  AtomicFile out(file);
  out.append(std::as_bytes(std::span(chosen)));
  out.commit();
}

}  // namespace trireme
