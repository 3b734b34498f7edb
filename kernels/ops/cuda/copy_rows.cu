// Reads x once and writes out once (and reads it, to accumulate); one thread a vector.
#include "kernels/ops/copy_rows.h"
#include "kernels/ops/cuda/flat.cuh"
#include "kernels/ops/cuda/vector.cuh"

namespace muster::kernels::cuda {
namespace {

// Strided rows in the order of their row-major index.
template <typename T>
struct Rows {
  T* data;
  int64_t outer_stride, row_stride;
  __device__ T* At(int64_t outer, int64_t row, int64_t column) const {
    return data + outer * outer_stride + row * row_stride + column;
  }
};

template <typename From, typename To>
struct CopyVector {
  Rows<const From> x;
  Rows<To> out;
  int64_t num_rows, width;
  bool accumulate;

  template <int kWidth>
  __device__ void Run(int64_t at) const {
    const int64_t index = at / width, column = at % width;
    const int64_t outer = index / num_rows, row = index % num_rows;
    float values[kWidth];
    LoadFloats(x.At(outer, row, column), values);
    To* to = out.At(outer, row, column);
    if (accumulate) {
      float before[kWidth];
      LoadFloats(to, before);
#pragma unroll
      for (int i = 0; i < kWidth; ++i) values[i] += before[i];
    }
    StoreFloats(to, values);
  }
};

template <typename T>
Rows<T> RowsOf(const TensorView& x) {
  return {Elements<T>(x), x.strides[0], x.strides[1]};
}

// Whether every row begins at a whole vector. A dim of one element leaves its stride open.
template <int kWidth>
bool InVectors(const TensorView& x) {
  return CanVectorize(0, {x.data}) && x.shape[2] % kWidth == 0 &&
         (x.shape[0] <= 1 || x.strides[0] % kWidth == 0) &&
         (x.shape[1] <= 1 || x.strides[1] % kWidth == 0);
}

}  // namespace

void CopyRows(const CopyRowsArgs& args, StreamView stream) {
  CheckArgs(args);
  const int64_t size = args.x.num_elements();
  if (size == 0) return;
  SwitchStorage("CopyRows", args.x.dtype, stream, [&](auto from) {
    SwitchStorage("CopyRows", args.out.dtype, stream, [&](auto to) {
      using From = decltype(from);
      using To = decltype(to);
      using Copy = CopyVector<From, To>;
      const Copy copy{RowsOf<const From>(args.x), RowsOf<To>(args.out), args.x.shape[1],
                      args.x.shape[2], args.accumulate};
      constexpr int kWidth = kVectorOf<BF16>;
      if (InVectors<kWidth>(args.x) && InVectors<kWidth>(args.out)) {
        Launch("CopyRows", stream, FlatKernel<kWidth, Copy>, FlatShape(size / kWidth), size, copy);
      } else {
        Launch("CopyRows", stream, FlatKernel<1, Copy>, FlatShape(size), size, copy);
      }
    });
  });
}

}  // namespace muster::kernels::cuda
