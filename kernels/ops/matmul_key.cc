#include "kernels/ops/matmul_key.h"

#include <algorithm>
#include <initializer_list>

#include "absl/strings/str_cat.h"
#include "kernels/base/error.h"

namespace muster::kernels {
namespace {

// The largest power of two up to 16 that divides the address and the row stride in bytes.
int AlignmentOf(const TensorView& x, int64_t stride) {
  const auto bits = reinterpret_cast<uintptr_t>(x.data) |
                    static_cast<uintptr_t>(stride * SizeOf(x.dtype)) | uintptr_t{16};
  return static_cast<int>(bits & (~bits + 1));
}

// A dim of one row leaves its stride open; the library wants it at least as long as a row.
int64_t RowStride(const TensorView& x) {
  return x.shape[0] > 1 ? x.strides[0] : std::max<int64_t>(x.shape[1], 1);
}

int64_t StoredBytes(int64_t rows, int64_t columns, int64_t stride, DType dtype) {
  return ((rows - 1) * stride + columns) * SizeOf(dtype);
}

constexpr int64_t kUnit = 8, kMinCut = 256;

// Where to cut a dim of `size` that is contiguous in these operands; `size`: not at all. In vain
// unless the rows of all of them start at multiples of 16 bytes.
int64_t CutOf(int64_t size, std::initializer_list<const TensorView*> contiguous_in) {
  if (size < kMinCut || size % kUnit == 0 || contiguous_in.size() == 0) return size;
  for (const TensorView* x : contiguous_in) {
    const bool aligned = reinterpret_cast<uintptr_t>(x->data) % 16 == 0 &&
                         (x->shape[0] <= 1 || x->strides[0] % kUnit == 0);
    if (x->dtype != DType::kBFloat16 || !aligned) return size;
  }
  return size / kUnit * kUnit;
}

}  // namespace

MatmulKey MatmulKey::Of(const MatmulArgs& args) {
  MatmulKey key = {.m = args.c.shape[0],
                   .n = args.c.shape[1],
                   .k = args.a.shape[args.a_transposed ? 0 : 1],
                   .a_stride = RowStride(args.a),
                   .b_stride = RowStride(args.b),
                   .c_stride = RowStride(args.c),
                   .storage = args.a.dtype,
                   .result = args.c.dtype,
                   .a_transposed = args.a_transposed,
                   .b_transposed = args.b_transposed,
                   .bias = static_cast<bool>(args.bias),
                   .accumulate = args.accumulate};
  key.a_alignment = AlignmentOf(args.a, key.a_stride);
  key.b_alignment = AlignmentOf(args.b, key.b_stride);
  key.c_alignment = AlignmentOf(args.c, key.c_stride);
  return key;
}

std::string MatmulKey::ToString() const {
  return absl::StrCat("m", m, "_n", n, "_k", k, "_", a_transposed ? "T" : "N",
                      b_transposed ? "T" : "N", "_", Name(storage), "_", Name(result),
                      bias ? "_bias" : "", accumulate ? "_accumulate" : "", "_strides", a_stride,
                      "-", b_stride, "-", c_stride, "_aligned", a_alignment, "-", b_alignment, "-",
                      c_alignment);
}

double MatmulKey::flops() const {
  return 2.0 * static_cast<double>(m) * static_cast<double>(n) * static_cast<double>(k);
}

int64_t MatmulKey::a_bytes() const {
  return StoredBytes(a_transposed ? k : m, a_transposed ? m : k, a_stride, storage);
}
int64_t MatmulKey::b_bytes() const {
  return StoredBytes(b_transposed ? n : k, b_transposed ? k : n, b_stride, storage);
}
int64_t MatmulKey::c_bytes() const { return StoredBytes(m, n, c_stride, result); }

absl::Status ForEachPart(const MatmulArgs& args,
                         const std::function<absl::Status(const MatmulArgs&)>& run) {
  const TensorView &a = args.a, &b = args.b, &c = args.c;
  if (a.dtype != DType::kBFloat16) return run(args);
  const int64_t m = c.shape[0], n = c.shape[1], k = a.shape[args.a_transposed ? 0 : 1];
  const auto rows_of_c = [&](int64_t begin, int64_t end) {
    MatmulArgs part = args;
    part.a = a.Slice(args.a_transposed ? 1 : 0, begin, end);
    part.c = c.Slice(0, begin, end);
    return part;
  };
  const auto columns_of_c = [&](int64_t begin, int64_t end) {
    MatmulArgs part = args;
    part.b = b.Slice(args.b_transposed ? 0 : 1, begin, end);
    part.c = c.Slice(1, begin, end);
    if (args.bias) part.bias = args.bias.Slice(0, begin, end);
    return part;
  };
  const auto sum_over = [&](int64_t begin, int64_t end) {
    MatmulArgs part = args;
    part.a = a.Slice(args.a_transposed ? 0 : 1, begin, end);
    part.b = b.Slice(args.b_transposed ? 1 : 0, begin, end);
    return part;
  };
  const int64_t cut_n = c.dtype != DType::kBFloat16 ? n
                        : args.b_transposed         ? CutOf(n, {&c})
                                                    : CutOf(n, {&c, &b});
  if (cut_n < n) {
    RETURN_IF_ERROR(ForEachPart(columns_of_c(0, cut_n), run));
    return run(columns_of_c(cut_n, n));
  }
  const int64_t cut_m = args.a_transposed ? CutOf(m, {&a}) : m;
  if (cut_m < m) {
    RETURN_IF_ERROR(ForEachPart(rows_of_c(0, cut_m), run));
    return run(rows_of_c(cut_m, m));
  }
  const int64_t cut_k = args.a_transposed && !args.b_transposed ? k
                        : args.a_transposed                     ? CutOf(k, {&b})
                        : args.b_transposed                     ? CutOf(k, {&a, &b})
                                                                : CutOf(k, {&a});
  if (cut_k == k) return run(args);
  // The tail first: rounding it to c's dtype loses less than rounding the bulk would.
  RETURN_IF_ERROR(run(sum_over(cut_k, k)));
  MatmulArgs bulk = sum_over(0, cut_k);
  bulk.bias = {};
  bulk.accumulate = true;
  return run(bulk);
}

}  // namespace muster::kernels
