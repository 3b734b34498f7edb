#pragma once
// The matrix product under the CPU operators that spend their time in one: row-major
//   c = alpha op(a) op(b) + beta c
// fp32 goes to oneDNN's sgemm, which uses the calling thread's OpenMP threads (one inside a
// parallel region) and gives the same bits for any number of them. fp64, which only gradient checks
// use, is three loops.
#include <cstdint>

namespace muster::kernels::cpu {

template <typename T>
struct GemmArgs {
  int64_t m = 0, n = 0, k = 0;  // any may be 0
  const T* a = nullptr;         // [m, k], or [k, m] if a_transposed
  int64_t a_stride = 0;         // elements from row to row, as are the others
  const T* b = nullptr;         // [k, n], or [n, k] if b_transposed
  int64_t b_stride = 0;
  T* c = nullptr;  // [m, n]
  int64_t c_stride = 0;
  bool a_transposed = false, b_transposed = false;
  T alpha = 1, beta = 0;  // beta 0: c is not read
};

void Gemm(const GemmArgs<float>& args);
void Gemm(const GemmArgs<double>& args);

}  // namespace muster::kernels::cpu
