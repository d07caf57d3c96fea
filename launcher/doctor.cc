// `trireme doctor`: what this machine has, what is missing, and which Debian package brings it.
#include <dnnl.h>
#include <mpi.h>
#include <sched.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include <array>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <string>
#include <utility>

#include "core/device/cpu_features.h"
#include "core/device/cuda/cuda_device.h"
#include "core/device/cuda/libraries.h"
#include "core/error.h"
#include "core/metrics/format.h"
#include "core/metrics/run_directory.h"
#include "core/ops/cpu/gemm_backend.h"
#include "launcher/commands.h"
#include "launcher/launch.h"
#include "launcher/rank_env.h"

namespace trireme {

namespace {

namespace fs = std::filesystem;

enum class Health { good, note, bad };

// Prints one finding a line and remembers the worst.
class Report {
 public:
  void heading(const char* text) { std::printf("\n%s\n", text); }

  void line(Health health, const std::string& name, const std::string& found, const std::string& remedy = "") {
    static constexpr std::array<const char*, 3> kMarks = {"ok", "--", "!!"};
    std::printf("  %s  %-12s %s\n", kMarks.at(static_cast<size_t>(health)), name.c_str(), found.c_str());
    if (!remedy.empty()) std::printf("      %-12s -> %s\n", "", remedy.c_str());
    if (health == Health::bad) broken_ = true;
  }

  bool broken() const { return broken_; }

 private:
  bool broken_ = false;
};

// The value of the first "key : value" or "key: value" line of a file of /proc.
std::string proc_value(const char* path, const std::string& key) {
  std::ifstream file(path);
  for (std::string line; std::getline(file, line);) {
    if (!line.starts_with(key)) continue;
    const size_t colon = line.find(':');
    const size_t begin = colon == std::string::npos ? colon : line.find_first_not_of(" \t", colon + 1);
    if (begin != std::string::npos) return line.substr(begin);
  }
  return "";
}

int64_t meminfo_bytes(const std::string& key) {
  return std::strtoll(proc_value("/proc/meminfo", key).c_str(), nullptr, 10) * 1024;
}

// Whether a program of that name lies in PATH; its place.
std::string find_program(const std::string& name) {
  const std::string path = std::getenv("PATH") ? std::getenv("PATH") : "";
  for (size_t begin = 0; begin <= path.size();) {
    const size_t end = std::min(path.find(':', begin), path.size());
    const fs::path candidate = fs::path(path.substr(begin, end - begin)) / name;
    if (::access(candidate.c_str(), X_OK) == 0) return candidate.string();
    begin = end + 1;
  }
  return "";
}

void report_machine(Report& report) {
  report.heading("machine");
  report.line(Health::good, "host", host_name());
  const CpuFeatures& cpu = cpu_features();
  report.line(Health::good, "cpu", proc_value("/proc/cpuinfo", "model name"));
  report.line(cpu.avx2 ? Health::good : Health::bad, "features", cpu.str().empty() ? "none" : cpu.str(),
              cpu.avx2 ? "" : "the program is built for AVX2 with FMA: use a newer machine");
  report.line(Health::good, "compute",
              cpu.has_fast_bf16() ? "bf16 and fp32 (precision.compute: auto takes bf16)"
                                  : "fp32 (no bf16 hardware: precision.compute: auto takes fp32)");
  report.line(Health::good, "cores",
              std::to_string(default_threads(1)) + " usable of " + std::to_string(::sysconf(_SC_NPROCESSORS_ONLN)));
  report.line(Health::good, "memory",
              human_bytes(meminfo_bytes("MemTotal")) + ", available " + human_bytes(meminfo_bytes("MemAvailable")));
  struct statvfs shm = {};
  if (::statvfs("/dev/shm", &shm) == 0) {
    const auto free_bytes = static_cast<int64_t>(shm.f_bavail) * static_cast<int64_t>(shm.f_frsize);
    const bool small = free_bytes < (int64_t{64} << 20);
    report.line(small ? Health::note : Health::good, "/dev/shm", human_bytes(free_bytes) + " free",
                small ? "ranks of a node meet there: docker run --shm-size=1g" : "");
  } else {
    report.line(Health::bad, "/dev/shm", "missing", "mount -t tmpfs tmpfs /dev/shm");
  }
}

void report_processes(Report& report) {
  report.heading("processes");
  std::array<char, MPI_MAX_LIBRARY_VERSION_STRING> version = {};
  int length = 0;
  MPI_Get_library_version(version.data(), &length);  // may be called before MPI_Init
  const std::string text = version.data();
  report.line(Health::good, "MPI", text.substr(0, text.find(',')));
  const std::string mpirun = find_program("mpirun");
  report.line(mpirun.empty() ? Health::note : Health::good, "mpirun", mpirun.empty() ? "missing" : mpirun,
              mpirun.empty() ? "apt-get install openmpi-bin (several ranks, trireme launch)" : "");
  const std::string srun = find_program("srun");
  report.line(Health::good, "srun", srun.empty() ? "none (no Slurm here)" : srun + ", use srun --mpi=pmix");
}

void report_libraries(Report& report) {
  report.heading("libraries");
  const dnnl_version_t* dnnl = dnnl_version();
  report.line(Health::good, "oneDNN",
              std::to_string(dnnl->major) + "." + std::to_string(dnnl->minor) + "." + std::to_string(dnnl->patch));
  const std::string openblas = cpu::openblas_config();
  report.line(openblas.empty() ? Health::note : Health::good, "OpenBLAS", openblas.empty() ? "missing" : openblas,
              openblas.empty() ? "apt-get install libopenblas0-pthread (CPUs without AVX-512 use it)" : "");
}

void report_gpus(Report& report) {
  report.heading("GPU (optional)");
  const int gpus = cuda::num_devices();
  if (gpus == 0) {
    report.line(Health::note, "devices", cuda::why_no_devices() + "; training runs on the CPU",
                "with an NVIDIA GPU: apt-get install nvidia-driver (Debian's non-free)");
  }
  for (int i = 0; i < gpus; ++i) {
    const cuda::DeviceInfo info = cuda::device_info(i);
    report.line(Health::good, "cuda:" + std::to_string(i), info.name + ", " + human_bytes(info.memory_bytes));
  }
  const std::string nvcc = find_program("nvcc");
  report.line(nvcc.empty() ? Health::note : Health::good, "CUDA toolkit", nvcc.empty() ? "no nvcc" : nvcc,
              nvcc.empty() ? "to build for GPUs: apt-get install nvidia-cuda-toolkit, or NVIDIA's cuda-toolkit" : "");
  for (const auto& [library, use] : {std::pair{cuda::GpuLibrary::cublaslt, "to train on a GPU"},
                                     std::pair{cuda::GpuLibrary::cublas, "for faster mixtures of experts"},
                                     std::pair{cuda::GpuLibrary::nccl, "for several GPUs"},
                                     std::pair{cuda::GpuLibrary::cudnn, "for faster attention"}}) {
    const cuda::LibraryInfo info = cuda::library_info(library);
    if (info.name.empty()) return;  // this program has no use for them
    if (info.found) {
      report.line(Health::good, info.name, info.version + ", " + info.path);
      continue;
    }
    const bool needed = gpus > 0 && library == cuda::GpuLibrary::cublaslt;
    report.line(needed ? Health::bad : Health::note, info.name, "none", std::string(use) + ": " + info.package);
  }
}

}  // namespace

int doctor_command() {
  Report report;
  std::printf("trireme doctor\n");
  report_machine(report);
  report_processes(report);
  report_libraries(report);
  report_gpus(report);
  std::printf("\n%s\n", report.broken() ? "What is marked !! stops training here."
                                        : "This machine can train. What is marked -- is optional.");
  return report.broken() ? static_cast<int>(ExitCode::machine) : 0;
}

}  // namespace trireme
