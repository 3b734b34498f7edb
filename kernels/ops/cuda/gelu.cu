// GELU, tanh approximation. A block takes a row, as in kernels/ops/cuda/swiglu.cu. Forward moves 2
// numbers an element, backward 3, the gradient of a bias with it. The tanh is taken as a logistic
// function,
//   (1 + tanh u) / 2 = sigmoid(2u),
// which costs one exponential and does not cancel where u is very negative.
#include "kernels/ops/cuda/column_sum.cuh"
#include "kernels/ops/cuda/launch.cuh"
#include "kernels/ops/cuda/vector.cuh"
#include "kernels/ops/gelu.h"

namespace muster::kernels::cuda {
namespace {

constexpr float kSqrtTwoOverPi = 0.79788456080286535588f, kCubic = 0.044715f;

// sigmoid(2 u(x)).
__device__ float Gate(float x) {
  return FastSigmoid(2.0f * kSqrtTwoOverPi * x * (1.0f + kCubic * x * x));
}

template <typename T>
struct Rows {
  const T *d_out, *x;  // d_out: backward only
  const float* row_weight;
  const int64_t* row_count;
  T* out;  // of the backward: d_x
  float* d_row_weight;
  int64_t num_rows, size;
};

template <typename T, int kWidth>
__global__ void ForwardKernel(Rows<T> rows) {
  const int64_t row = blockIdx.x;
  if (row >= RowsInUse(rows.row_count, rows.num_rows)) return;
  const float row_weight = rows.row_weight != nullptr ? rows.row_weight[row] : 1.0f;
  const int64_t at = row * rows.size;
#pragma unroll 2
  for (int64_t f = threadIdx.x * kWidth; f < rows.size; f += blockDim.x * kWidth) {
    float x[kWidth];
    LoadFloats(rows.x + at + f, x);
#pragma unroll
    for (int i = 0; i < kWidth; ++i) x[i] *= Gate(x[i]) * row_weight;
    StoreFloats(rows.out + at + f, x);
  }
}

// With s = sigmoid(2u):   y' = s + 2 x s (1 - s) u',   u' = sqrt(2 / pi) (1 + 3 0.044715 x^2)
__device__ float Slope(float x, float s) {
  const float d_u = kSqrtTwoOverPi * (1.0f + 3.0f * kCubic * x * x);
  return s + 2.0f * x * s * (1.0f - s) * d_u;
}

template <typename T, int kWidth>
__global__ void BackwardKernel(Rows<T> rows) {
  const int64_t row = blockIdx.x;
  if (row >= RowsInUse(rows.row_count, rows.num_rows)) return;
  const float row_weight = rows.row_weight != nullptr ? rows.row_weight[row] : 1.0f;
  const int64_t at = row * rows.size;
  float d_row_weight = 0;
  for (int64_t f = threadIdx.x * kWidth; f < rows.size; f += blockDim.x * kWidth) {
    float x[kWidth], d[kWidth];
    LoadFloats(rows.x + at + f, x);
    LoadFloats(rows.d_out + at + f, d);
#pragma unroll
    for (int i = 0; i < kWidth; ++i) {
      const float s = Gate(x[i]);
      d_row_weight += d[i] * x[i] * s;
      d[i] *= row_weight * Slope(x[i], s);
    }
    StoreFloats(rows.out + at + f, d);
  }
  if (rows.d_row_weight == nullptr) return;
  d_row_weight = RowSum(d_row_weight);
  if (threadIdx.x == 0) rows.d_row_weight[row] = d_row_weight;
}

// The backward with the bias' gradient: the sum over rows that column_sum.cuh takes is of what this
// writes.
template <typename T>
struct BiasTerm {
  using Storage = T;
  static constexpr int kInputs = 2, kOutputs = 1, kRowsAhead = 4;
  static constexpr int kBlocksPerSm = 4;  // whose registers hold the rows ahead
  const T *d_out, *x;
  T* d_x;
  int64_t size;

  template <int kWidth>
  __device__ void Load(int64_t row, int64_t column, Pack<T, kWidth> (&vectors)[kInputs]) const {
    vectors[0] = *reinterpret_cast<const Pack<T, kWidth>*>(d_out + row * size + column);
    vectors[1] = *reinterpret_cast<const Pack<T, kWidth>*>(x + row * size + column);
  }
  template <int kWidth>
  __device__ void Add(const Pack<T, kWidth> (&vectors)[kInputs], int64_t row, int64_t column,
                      float (&sums)[kOutputs][kWidth]) const {
    Pack<T, kWidth> stored;
#pragma unroll
    for (int i = 0; i < kWidth; ++i) {
      const float value = ToFloat(vectors[1].v[i]);
      stored.v[i] = FromFloat<T>(ToFloat(vectors[0].v[i]) * Slope(value, Gate(value)));
      sums[0][i] += ToFloat(stored.v[i]);
    }
    *reinterpret_cast<Pack<T, kWidth>*>(d_x + row * size + column) = stored;
  }
};

}  // namespace

void GeluForward(const GeluForwardArgs& args, StreamView stream) {
  CheckArgs(args);
  SwitchStorage("GeluForward", args.x.dtype, stream, [&](auto tag) {
    using T = decltype(tag);
    const Rows<T> rows{.d_out = nullptr,
                       .x = Elements<T>(args.x),
                       .row_weight = Elements<float>(args.row_weight),
                       .row_count = Elements<int64_t>(args.row_count),
                       .out = Elements<T>(args.out),
                       .d_row_weight = nullptr,
                       .num_rows = args.x.shape[0],
                       .size = args.x.shape[1]};
    const int64_t row_bytes = rows.size * static_cast<int64_t>(sizeof(T));
    SwitchWidth<T>(CanVectorize(row_bytes, {rows.x, rows.out}), [&](auto width) {
      Launch("GeluForward", stream, ForwardKernel<T, width()>,
             RowLoopShape(rows.num_rows, rows.size / width()), rows);
    });
  });
}

void GeluBackward(const GeluBackwardArgs& args, StreamView stream) {
  CheckArgs(args);
  SwitchStorage("GeluBackward", args.x.dtype, stream, [&](auto tag) {
    using T = decltype(tag);
    if (args.d_bias) {
      const BiasTerm<T> term{Elements<T>(args.d_out), Elements<T>(args.x), Elements<T>(args.d_x),
                             args.x.shape[1]};
      return SumColumns<T>("GeluBackward", term, args.x.shape[0], term.size,
                           {term.d_out, term.x, term.d_x}, {Elements<float>(args.d_bias)}, stream);
    }
    const Rows<T> rows{
        .d_out = Elements<T>(args.d_out),
        .x = Elements<T>(args.x),
        .row_weight = Elements<float>(args.row_weight),
        .row_count = Elements<int64_t>(args.row_count),
        .out = Elements<T>(args.d_x),
        .d_row_weight = args.row_weight ? Elements<float>(args.d_row_weight) : nullptr,
        .num_rows = args.x.shape[0],
        .size = args.x.shape[1]};
    const int64_t row_bytes = rows.size * static_cast<int64_t>(sizeof(T));
    SwitchWidth<T>(CanVectorize(row_bytes, {rows.d_out, rows.x, rows.out}), [&](auto width) {
      Launch("GeluBackward", stream, BackwardKernel<T, width()>,
             RowLoopShape(rows.num_rows, rows.size / width()), rows);
    });
  });
}

}  // namespace muster::kernels::cuda
