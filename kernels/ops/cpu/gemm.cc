#include "kernels/ops/cpu/gemm.h"

#include <algorithm>

#include "dnnl.h"
#include "kernels/base/error.h"

namespace muster::kernels::cpu {
namespace {

// c = beta c.
template <typename T>
void ScaleOutput(const GemmArgs<T>& args) {
  for (int64_t i = 0; i < args.m; ++i) {
    T* row = args.c + i * args.c_stride;
    for (int64_t j = 0; j < args.n; ++j) row[j] = args.beta == 0 ? T{0} : args.beta * row[j];
  }
}

}  // namespace

void Gemm(const GemmArgs<float>& args) {
  if (args.m == 0 || args.n == 0) return;
  if (args.k == 0) return ScaleOutput(args);
  // A matrix of one row may have any row stride; the library wants at least the row's length.
  const int64_t lda = std::max(args.a_stride, args.a_transposed ? args.m : args.k);
  const int64_t ldb = std::max(args.b_stride, args.b_transposed ? args.k : args.n);
  const int64_t ldc = std::max(args.c_stride, args.n);
  const dnnl_status_t status =
      dnnl_sgemm(args.a_transposed ? 'T' : 'N', args.b_transposed ? 'T' : 'N', args.m, args.n,
                 args.k, args.alpha, args.a, lda, args.b, ldb, args.beta, args.c, ldc);
  MUSTER_CHECK(status == dnnl_success)
      << "dnnl_sgemm returned " << status << " for m " << args.m << " n " << args.n << " k "
      << args.k << " strides " << lda << ", " << ldb << ", " << ldc;
}

void Gemm(const GemmArgs<double>& args) {
  ScaleOutput(args);
  const int64_t a_row = args.a_transposed ? 1 : args.a_stride;
  const int64_t a_column = args.a_transposed ? args.a_stride : 1;
  const int64_t b_row = args.b_transposed ? 1 : args.b_stride;
  const int64_t b_column = args.b_transposed ? args.b_stride : 1;
  for (int64_t i = 0; i < args.m; ++i) {
    double* c = args.c + i * args.c_stride;
    for (int64_t p = 0; p < args.k; ++p) {
      const double a = args.alpha * args.a[i * a_row + p * a_column];
      const double* b = args.b + p * b_row;
      for (int64_t j = 0; j < args.n; ++j) c[j] += a * b[j * b_column];
    }
  }
}

}  // namespace muster::kernels::cpu
