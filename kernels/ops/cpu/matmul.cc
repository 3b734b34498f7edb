// fp32 and fp64 are one Gemm on the tensors as they lie. bf16 is widened to fp32 block by block and
// goes through the same Gemm. oneDNN's own bf16 product was measured and not taken: without AVX-512
// it does not exist, on Intel's AVX512_BF16 it runs at 0.55 of sgemm (83 against 150 GFLOP/s at
// n = 1024), and it compiles a kernel for each new shape (0.3 ms), of which routed experts make
// one a step. It would win where bf16 has twice the rate of fp32 (AMX, AMD Zen 4).
#include "kernels/ops/matmul.h"

#include <algorithm>
#include <cstdint>
#include <vector>

#include "kernels/ops/cpu/gemm.h"

namespace muster::kernels::cpu {
namespace {

template <typename T>
void CopyBiasToRows(const TensorView& bias, T* c, int64_t c_stride, int64_t m, int64_t n) {
  for (int64_t i = 0; i < m; ++i) std::copy_n(bias.as<T>(), n, c + i * c_stride);
}

template <typename T>
void SameType(const MatmulArgs& args, int64_t m, int64_t n, int64_t k) {
  T* c = args.c.as<T>();
  if (args.bias) CopyBiasToRows(args.bias, c, args.c.strides[0], m, n);
  Gemm(GemmArgs<T>{.m = m,
                   .n = n,
                   .k = k,
                   .a = args.a.as<T>(),
                   .a_stride = args.a.strides[0],
                   .b = args.b.as<T>(),
                   .b_stride = args.b.strides[0],
                   .c = c,
                   .c_stride = args.c.strides[0],
                   .a_transposed = args.a_transposed,
                   .b_transposed = args.b_transposed,
                   .beta = static_cast<T>(args.accumulate || args.bias ? 1 : 0)});
}

// Blocks of bf16 operands are widened into these. They grow to the largest block a thread has seen,
// at most kBlockRows (or kBlockColumns) x kBlockDepth floats each, and stay.
struct WideningScratch {
  std::vector<float> a, b, c;
};
constexpr int64_t kBlockRows = 1024, kBlockColumns = 1024, kBlockDepth = 2048;

// [rows, columns] of bf16 to contiguous fp32.
const float* Widen(const BFloat16* x, int64_t stride, int64_t rows, int64_t columns,
                   std::vector<float>& out) {
  if (static_cast<int64_t>(out.size()) < rows * columns) {
    out.resize(static_cast<size_t>(rows * columns));
  }
  for (int64_t i = 0; i < rows; ++i) {
    const BFloat16* in_row = x + i * stride;
    float* out_row = out.data() + i * columns;
    for (int64_t j = 0; j < columns; ++j) out_row[j] = in_row[j];
  }
  return out.data();
}

// Rows [i, i + m) and columns [j, j + n) of op(x), where op(x) is x or its transpose.
struct Block {
  int64_t row = 0, column = 0, rows = 0, columns = 0;
};
const float* WidenBlock(const TensorView& x, bool transposed, const Block& block,
                        std::vector<float>& out) {
  const int64_t stride = x.strides[0];
  const BFloat16* data = x.as<BFloat16>();
  if (transposed) {
    return Widen(data + block.column * stride + block.row, stride, block.columns, block.rows, out);
  }
  return Widen(data + block.row * stride + block.column, stride, block.rows, block.columns, out);
}

// The sums of one block of c, into fp32 rows at `sums`: all of k, in pieces.
void WidenedBlock(const MatmulArgs& args, const Block& block, int64_t k, float* sums,
                  int64_t sums_stride, bool add, WideningScratch& scratch) {
  int64_t p = 0;
  do {  // once even if k is 0: sums must be written
    const int64_t depth = std::min(kBlockDepth, k - p);
    const Block a_block{block.row, p, block.rows, depth};
    const Block b_block{p, block.column, depth, block.columns};
    Gemm(GemmArgs<float>{.m = block.rows,
                         .n = block.columns,
                         .k = depth,
                         .a = WidenBlock(args.a, args.a_transposed, a_block, scratch.a),
                         .a_stride = args.a_transposed ? block.rows : depth,
                         .b = WidenBlock(args.b, args.b_transposed, b_block, scratch.b),
                         .b_stride = args.b_transposed ? depth : block.columns,
                         .c = sums,
                         .c_stride = sums_stride,
                         .a_transposed = args.a_transposed,
                         .b_transposed = args.b_transposed,
                         .beta = add || p > 0 ? 1.0f : 0.0f});
    p += depth;
  } while (p < k);
}

// A block of a bf16 c: summed in fp32, rounded once at the end.
void NarrowBlock(const MatmulArgs& args, const Block& block, int64_t k, WideningScratch& scratch) {
  const int64_t c_stride = args.c.strides[0];
  BFloat16* c = args.c.as<BFloat16>() + block.row * c_stride + block.column;
  scratch.c.resize(static_cast<size_t>(block.rows * block.columns));
  const bool add = args.accumulate || args.bias;
  if (args.accumulate) {
    Widen(c, c_stride, block.rows, block.columns, scratch.c);
  } else if (args.bias) {
    const BFloat16* bias = args.bias.as<BFloat16>() + block.column;
    Widen(bias, 0, block.rows, block.columns, scratch.c);
  }
  WidenedBlock(args, block, k, scratch.c.data(), block.columns, add, scratch);
  for (int64_t i = 0; i < block.rows; ++i) {
    const float* sums = scratch.c.data() + i * block.columns;
    BFloat16* row = c + i * c_stride;
    for (int64_t j = 0; j < block.columns; ++j) row[j] = BFloat16(sums[j]);
  }
}

void Widened(const MatmulArgs& args, int64_t m, int64_t n, int64_t k) {
  thread_local WideningScratch scratch;
  const bool narrow = args.c.dtype == DType::kBFloat16;
  const int64_t c_stride = args.c.strides[0];
  if (!narrow && args.bias) CopyBiasToRows(args.bias, args.c.as<float>(), c_stride, m, n);
  for (int64_t j = 0; j < n; j += kBlockColumns) {
    for (int64_t i = 0; i < m; i += kBlockRows) {
      const Block block{i, j, std::min(kBlockRows, m - i), std::min(kBlockColumns, n - j)};
      if (narrow) {
        NarrowBlock(args, block, k, scratch);
      } else {
        WidenedBlock(args, block, k, args.c.as<float>() + i * c_stride + j, c_stride,
                     args.accumulate || args.bias, scratch);
      }
    }
  }
}

}  // namespace

void Matmul(const MatmulArgs& args) {
  CheckArgs(args);
  const int64_t m = args.c.shape[0], n = args.c.shape[1];
  const int64_t k = args.a.shape[args.a_transposed ? 0 : 1];
  switch (args.a.dtype) {
    case DType::kFloat32:
      return SameType<float>(args, m, n, k);
    case DType::kFloat64:
      return SameType<double>(args, m, n, k);
    default:  // CheckArgs left bf16
      return Widened(args, m, n, k);
  }
}

}  // namespace muster::kernels::cpu
