// fp32 products by OpenBLAS, each on the calling thread. CPUs with AVX-512 never ask for it, so the library is loaded at the
// first use.
//
// It has to be the build with POSIX threads, told to start none: calls from several threads at once get one working
// memory between them in the serial build, and wrong sums (its memory.c locks in threaded builds alone; OpenBLAS 0.3.21).
#include <dlfcn.h>

#include <cstdlib>
#include <limits>

#include "core/error.h"
#include "core/ops/cpu/gemm_backend.h"

namespace trireme::cpu {

namespace {

// Read when the library is loaded. Set before main, where no other thread can be reading the environment.
[[maybe_unused]] const int starts_no_threads = ::setenv("OPENBLAS_NUM_THREADS", "1", /*overwrite=*/1);

// As cblas.h declares them; sizes are of 32 bits in Debian's builds.
constexpr int kRowMajor = 101;
constexpr int kPlain = 111;
constexpr int kTransposed = 112;
constexpr int kPosixThreads = 1;
using Sgemm = void (*)(int order, int transpose_a, int transpose_b, int m, int n, int k, float alpha, const float* a,
                       int lda, const float* b, int ldb, float beta, float* c, int ldc);

struct Library {
  Sgemm sgemm = nullptr;  // null where there is no such build
  std::string config;     // what the library says of itself
};

Library load() {
  for (const char* file : {"/usr/lib/x86_64-linux-gnu/openblas-pthread/libopenblas.so.0", "libopenblas.so.0"}) {
    void* const handle = ::dlopen(file, RTLD_NOW | RTLD_LOCAL);
    if (handle == nullptr) continue;
    const auto parallel = reinterpret_cast<int (*)()>(::dlsym(handle, "openblas_get_parallel"));
    const auto config = reinterpret_cast<char* (*)()>(::dlsym(handle, "openblas_get_config"));
    const auto sgemm = reinterpret_cast<Sgemm>(::dlsym(handle, "cblas_sgemm"));
    if (parallel != nullptr && config != nullptr && sgemm != nullptr && parallel() == kPosixThreads) {
      return {.sgemm = sgemm, .config = config()};
    }
  }
  return {};
}

const Library& library() {
  static const Library loaded = load();
  return loaded;
}

// Matrices of more than 2^31 rows or columns don't occur.
int blas_int(int64_t value) {
  TRIREME_CHECK(value <= std::numeric_limits<int>::max(), "a dimension that OpenBLAS can't take");
  return static_cast<int>(value);
}

int blas_transpose(Transpose transpose) { return transpose == Transpose::yes ? kTransposed : kPlain; }

}  // namespace

std::string openblas_config() { return library().config; }

void gemm_openblas(const GemmArgs& args) {
  TRIREME_CHECK(library().sgemm != nullptr, "OpenBLAS isn't installed");
  library().sgemm(kRowMajor, blas_transpose(args.a.transpose), blas_transpose(args.b.transpose), blas_int(args.m),
                  blas_int(args.n), blas_int(args.k), args.alpha, static_cast<const float*>(args.a.data),
                  blas_int(args.a.ld), static_cast<const float*>(args.b.data), blas_int(args.b.ld), args.beta,
                  static_cast<float*>(args.c.data), blas_int(args.c.ld));
}

}  // namespace trireme::cpu
