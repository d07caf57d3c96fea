#include "parallel/comm/mpi_engine.h"

#include <mpi.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cstdlib>
#include <future>
#include <utility>

#include "parallel/comm/message_requests.h"

namespace trireme {

MpiEngine::MpiEngine(const MpiOptions& options) : options_(options) {
  TRIREME_CHECK(options.chunk_bytes >= 4096);
  host_ = std::make_unique<HostEngine>([this] { start(); }, [this] { stop(); });
  // The thread does not look at the bell before its first task arrives through the old one.
  if (bells_) {
    Doorbell* bell = doorbell_of(places_.rank);
    host_->run([this, bell] { host_->use_doorbell(bell); });
  }
}

MpiEngine::~MpiEngine() { host_.reset(); }

void MpiEngine::start() {
  int initialized = 0;
  MPI_Initialized(&initialized);
  TRIREME_CHECK(initialized == 0, "two MPI runtimes in one process");
  int provided = 0;
  check_mpi(MPI_Init_thread(nullptr, nullptr, MPI_THREAD_FUNNELED, &provided), "MPI_Init_thread");
  if (provided < MPI_THREAD_FUNNELED) throw MachineError({.what = "this MPI doesn't support threads"});
  MPI_Comm_rank(MPI_COMM_WORLD, &places_.rank);
  MPI_Comm_size(MPI_COMM_WORLD, &places_.size);
  char version[MPI_MAX_LIBRARY_VERSION_STRING] = {};
  int length = 0;
  MPI_Get_library_version(version, &length);
  places_.library = std::string(version).substr(0, std::string(version).find(','));
  messages_ = std::make_unique<MessageWorld>();
  meet_node();
}

// Finds the ranks of this machine, and lets them share their bells. Where they cannot map each other's memory
// (containers with separate process ids, say), every rank of the node counts as a node of its own.
void MpiEngine::meet_node() {
  MPI_Comm node = MPI_COMM_NULL;
  check_mpi(MPI_Comm_split_type(MPI_COMM_WORLD, MPI_COMM_TYPE_SHARED, places_.rank, MPI_INFO_NULL, &node),
            "MPI_Comm_split_type");
  MPI_Comm_rank(node, &places_.local_rank);
  MPI_Comm_size(node, &places_.local_size);
  int leader[3] = {places_.rank, static_cast<int>(::getpid()), -1};  // world rank, process, descriptor
  const int64_t bytes = places_.local_size * static_cast<int64_t>(sizeof(Doorbell));
  const bool wanted = places_.local_size > 1 && !options_.one_rank_per_node;
  if (wanted && places_.local_rank == 0) bells_ = SharedSegment::create(bytes);
  if (bells_) leader[2] = bells_->descriptor();
  MPI_Bcast(leader, 3, MPI_INT, 0, node);
  if (wanted && places_.local_rank != 0 && leader[2] >= 0) bells_ = SharedSegment::open(leader[1], leader[2], bytes);
  int shared = bells_ ? 1 : 0;
  MPI_Allreduce(MPI_IN_PLACE, &shared, 1, MPI_INT, MPI_MIN, node);
  if (bells_) bells_->close_descriptor();
  if (shared == 0) bells_.reset();
  const int my_node = shared != 0 ? leader[0] : places_.rank;
  places_.node_of.resize(static_cast<size_t>(places_.size));
  MPI_Allgather(&my_node, 1, MPI_INT, places_.node_of.data(), 1, MPI_INT, MPI_COMM_WORLD);
  MPI_Comm_free(&node);
}

void MpiEngine::stop() {
  messages_.reset();
  MPI_Finalize();
}

Doorbell* MpiEngine::doorbell_of(int world_rank) const {
  TRIREME_CHECK(bells_ != nullptr && on_my_node(world_rank));
  const int node = places_.node_of[static_cast<size_t>(world_rank)];
  const auto place = std::count(places_.node_of.begin(), places_.node_of.begin() + world_rank, node);
  return reinterpret_cast<Doorbell*>(bells_->data()) + place;
}

std::vector<std::byte> MpiEngine::gather_world(std::span<const std::byte> mine) {
  std::vector<std::byte> all(mine.size() * static_cast<size_t>(places_.size));
  const int bytes = static_cast<int>(mine.size());
  host_->run([&] {
    check_mpi(MPI_Allgather(mine.data(), bytes, MPI_BYTE, all.data(), bytes, MPI_BYTE, MPI_COMM_WORLD),
              "MPI_Allgather");
  });
  return all;
}

void MpiEngine::abort(ExitCode code) {
  // From the communication thread, as MPI asks for; but if that is stuck, leaving is enough: the launcher
  // ends the others when a rank leaves without MPI_Finalize.
  std::thread([this, code] { host_->run([code] { MPI_Abort(MPI_COMM_WORLD, static_cast<int>(code)); }); }).detach();
  std::this_thread::sleep_for(std::chrono::seconds(2));
  ::_exit(static_cast<int>(code));
}

}  // namespace trireme
