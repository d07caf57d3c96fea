// fp32 products by OpenBLAS, one thread.
#include <openblas-serial/cblas.h>

#include <limits>

#include "core/error.h"
#include "core/ops/cpu/gemm_backend.h"

namespace trireme::cpu {

namespace {

// OpenBLAS takes 32-bit sizes. Matrices of more than 2^31 rows or columns don't occur.
blasint blas_int(int64_t value) {
  TRIREME_CHECK(value <= std::numeric_limits<blasint>::max(), "a dimension that OpenBLAS can't take");
  return static_cast<blasint>(value);
}

CBLAS_TRANSPOSE blas_transpose(Transpose transpose) { return transpose == Transpose::yes ? CblasTrans : CblasNoTrans; }

// We link the serial build, but the system's run-time link may lead to the threaded one of the same name: that
// one must stay on the calling thread too.
void stay_serial() {
  static const bool done = [] {
    if (openblas_get_parallel() != OPENBLAS_SEQUENTIAL) openblas_set_num_threads(1);
    return true;
  }();
  static_cast<void>(done);
}

}  // namespace

void gemm_openblas(const GemmArgs& args) {
  stay_serial();
  cblas_sgemm(CblasRowMajor, blas_transpose(args.a.transpose), blas_transpose(args.b.transpose), blas_int(args.m),
              blas_int(args.n), blas_int(args.k), args.alpha, static_cast<const float*>(args.a.data),
              blas_int(args.a.ld), static_cast<const float*>(args.b.data), blas_int(args.b.ld), args.beta,
              static_cast<float*>(args.c.data), blas_int(args.c.ld));
}

}  // namespace trireme::cpu
