// Reductions and small elementwise operators, each one pass over memory. A sum of all elements goes
// through a tree that size and alignment alone determine: up to 1024 blocks of strided threads,
// whose sums one block adds. All of it in fp64, which the device does faster than memory delivers.
#include "kernels/ops/cuda/column_sum.cuh"
#include "kernels/ops/cuda/flat.cuh"
#include "kernels/ops/cuda/range_pieces.cuh"
#include "kernels/ops/cuda/vector.cuh"
#include "kernels/ops/reduce.h"

namespace muster::kernels::cuda {
namespace {

constexpr int kSumBlocks = 1024;

__device__ double Square(float value) {
  const double wide = value;
  return wide * wide;
}

// of_block[b] = sum of squares of the b-th of gridDim equal runs of pieces, in fp64. Pieces that
// follow each other in a range are read as one: a piece at a time would wait for the table, then
// for its elements, before it asked for the next.
template <typename T>
__global__ void __launch_bounds__(kFlatThreads)
    SquaresKernel(const SquaresRange* ranges, const RangePiece* pieces, int64_t num_pieces,
                  double* of_block) {
  const int64_t run = (num_pieces + gridDim.x - 1) / gridDim.x;
  const int64_t end_of_run = min((blockIdx.x + 1) * run, num_pieces);
  double sum = 0;
  for (int64_t p = blockIdx.x * run; p < end_of_run;) {
    const RangePiece piece = pieces[p];
    const SquaresRange range = ranges[piece.range];
    const T* x = static_cast<const T*>(range.x);
    const int64_t begin = piece.index * kRangePiece;
    const int64_t end = min(begin + (end_of_run - p) * kRangePiece, range.count);
    ForEachOf<kVectorOf<T>>(begin, end, AreAligned({x}), [&]<int kWidth>(int64_t at) {
      float values[kWidth];
      LoadFloats(x + at, values);
#pragma unroll
      for (int i = 0; i < kWidth; ++i) sum += Square(values[i]);
    });
    p += (end - begin + kRangePiece - 1) / kRangePiece;
  }
  sum = RowSum(sum);
  if (threadIdx.x == 0) of_block[blockIdx.x] = sum;
}

template <typename T, int kWidth>
__global__ void SumKernel(const T* x, int64_t size, double* of_block) {
  const int64_t thread = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  const int64_t threads = static_cast<int64_t>(gridDim.x) * blockDim.x, vectors = size / kWidth;
  double sum = 0;
#pragma unroll 4
  for (int64_t i = thread; i < vectors; i += threads) {
    float values[kWidth];
    LoadFloats(x + i * kWidth, values);
#pragma unroll
    for (int j = 0; j < kWidth; ++j) sum += values[j];
  }
  if (const int64_t at = vectors * kWidth + thread; at < size) {
    sum += ToFloat(x[at]);
  }
  sum = RowSum(sum);
  if (threadIdx.x == 0) of_block[blockIdx.x] = sum;
}

// out += scale * sum of of_block[0, gridDim of the kernel before).
__global__ void AddTotalKernel(const double* of_block, int num_blocks, double scale, double* out) {
  const int i = threadIdx.x;
  const double sum = RowSum(i < num_blocks ? of_block[i] : 0.0);
  if (i == 0) *out += scale * sum;
}

void AddSum(const char* op, const TensorView& x, double scale, const TensorView& out,
            StreamView stream) {
  if (x.num_elements() == 0) return;
  SwitchStorage(op, x.dtype, stream, [&](auto tag) {
    using T = decltype(tag);
    Scratch scratch(stream);
    double* of_block = scratch.Take<double>(kSumBlocks);
    if (!scratch.Fits(op, stream)) return;
    SwitchWidth<T>(CanVectorize(0, {x.data}), [&](auto width) {
      LaunchShape shape = FlatShape(CeilDiv(x.num_elements(), width()));
      shape.blocks = std::min<int64_t>(shape.blocks, kSumBlocks);
      Launch(op, stream, SumKernel<T, width()>, shape, Elements<T>(x), x.num_elements(), of_block);
      Launch(op, stream, AddTotalKernel, LaunchShape{.blocks = 1, .threads_x = kSumBlocks},
             of_block, static_cast<int>(shape.blocks), scale, Elements<double>(out));
    });
  });
}

template <typename T>
struct ColumnTerm {
  using Storage = T;
  static constexpr int kInputs = 1, kOutputs = 1, kRowsAhead = 4;
  static constexpr int kBlocksPerSm = kColumnBlocksPerSm;
  const T* x;
  int64_t columns;

  template <int kWidth>
  __device__ void Load(int64_t row, int64_t column, Pack<T, kWidth> (&vectors)[kInputs]) const {
    vectors[0] = *reinterpret_cast<const Pack<T, kWidth>*>(x + row * columns + column);
  }
  template <int kWidth>
  __device__ void Add(const Pack<T, kWidth> (&vectors)[kInputs], int64_t, int64_t,
                      float (&sums)[kOutputs][kWidth]) const {
#pragma unroll
    for (int i = 0; i < kWidth; ++i) sums[0][i] += ToFloat(vectors[0].v[i]);
  }
};

template <typename T>
struct AddBoth {
  const T *a, *b;
  T* out;

  template <int kWidth>
  __device__ void Run(int64_t at) const {
    float sum[kWidth], other[kWidth];
    LoadFloats(a + at, sum);
    LoadFloats(b + at, other);
#pragma unroll
    for (int i = 0; i < kWidth; ++i) sum[i] += other[i];
    StoreFloats(out + at, sum);
  }
};

template <typename T>
struct AddSlices {
  const T* inputs;
  T* out;
  int64_t num_slices, size;

  template <int kWidth>
  __device__ void Run(int64_t at) const {
    float sum[kWidth] = {};
#pragma unroll 4
    for (int64_t slice = 0; slice < num_slices; ++slice) {
      float values[kWidth];
      LoadFloats(inputs + slice * size + at, values);
#pragma unroll
      for (int i = 0; i < kWidth; ++i) sum[i] += values[i];
    }
    StoreFloats(out + at, sum);
  }
};

__global__ void ClipKernel(const double* sum_of_squares, double* norm, float* scale,
                           double max_norm) {
  const double sum = *sum_of_squares, root = sqrt(sum);
  double coefficient = 1.0;
  if (!isfinite(sum)) {
    coefficient = 0.0;
  } else if (max_norm > 0 && root > max_norm) {
    coefficient = max_norm / (root + 1e-6);
  }
  *norm = root;
  *scale = static_cast<float>(coefficient);
}

}  // namespace

void SumOfSquares(const SumOfSquaresArgs& args, StreamView stream) {
  const char* op = "SumOfSquares";
  CheckArgs(args);
  if (args.table.num_pieces == 0) return;
  SwitchStorage(op, args.dtype, stream, [&](auto tag) {
    using T = decltype(tag);
    Scratch scratch(stream);
    double* of_block = scratch.Take<double>(kSumBlocks);
    if (!scratch.Fits(op, stream)) return;
    const LaunchShape shape{.blocks = std::min<int64_t>(args.table.num_pieces, kSumBlocks),
                            .threads_x = kFlatThreads};
    Launch(op, stream, SquaresKernel<T>, shape, args.table.ranges<SquaresRange>(),
           args.table.pieces<SquaresRange>(), args.table.num_pieces, of_block);
    Launch(op, stream, AddTotalKernel, LaunchShape{.blocks = 1, .threads_x = kSumBlocks}, of_block,
           static_cast<int>(shape.blocks), 1.0, Elements<double>(args.out));
  });
}

void Sum(const SumArgs& args, StreamView stream) {
  CheckArgs(args);
  AddSum("Sum", args.x, args.scale, args.out, stream);
}

void ColumnSum(const ColumnSumArgs& args, StreamView stream) {
  CheckArgs(args);
  SwitchStorage("ColumnSum", args.x.dtype, stream, [&](auto tag) {
    using T = decltype(tag);
    const ColumnTerm<T> term{Elements<T>(args.x), args.x.shape[1]};
    SumColumns<T>("ColumnSum", term, args.x.shape[0], args.x.shape[1], {term.x},
                  {Elements<float>(args.out)}, stream);
  });
}

void Add(const AddArgs& args, StreamView stream) {
  CheckArgs(args);
  SwitchStorage("Add", args.out.dtype, stream, [&](auto tag) {
    using T = decltype(tag);
    const AddBoth<T> add{Elements<T>(args.a), Elements<T>(args.b), Elements<T>(args.out)};
    RunFlat<kVectorOf<T>>("Add", args.out.num_elements(), {add.a, add.b, add.out}, add, stream);
  });
}

void SumSlices(const SumSlicesArgs& args, StreamView stream) {
  CheckArgs(args);
  SwitchStorage("SumSlices", args.out.dtype, stream, [&](auto tag) {
    using T = decltype(tag);
    const AddSlices<T> add{Elements<T>(args.inputs), Elements<T>(args.out), args.inputs.shape[0],
                           args.inputs.shape[1]};
    // Every slice is aligned if the second one is.
    RunFlat<kVectorOf<T>>("SumSlices", add.size, {add.inputs, add.inputs + add.size, add.out}, add,
                          stream);
  });
}

void ClipCoefficient(const ClipCoefficientArgs& args, StreamView stream) {
  CheckArgs(args);
  if (!IsFloat32("ClipCoefficient", args.scale.dtype, stream)) return;
  Launch("ClipCoefficient", stream, ClipKernel, LaunchShape{.blocks = 1},
         Elements<double>(args.sum_of_squares), Elements<double>(args.norm),
         Elements<float>(args.scale), args.max_norm);
}

}  // namespace muster::kernels::cuda
