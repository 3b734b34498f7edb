// Rotary embedding in place: reads and writes each element once; a token's row of the table is read
// by all its heads, from the caches. A block takes a token, a thread the channels c and c + C/2 of
// one vector.
#include "kernels/ops/cuda/launch.cuh"
#include "kernels/ops/cuda/vector.cuh"
#include "kernels/ops/rope.h"

namespace muster::kernels::cuda {
namespace {

// One entry a thread, in fp64: runs once, before step 1.
__global__ void TableKernel(float* table, int64_t num_positions, int64_t half, double theta) {
  const int64_t i = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  if (i >= num_positions * half) return;
  const double frequency = pow(theta, -static_cast<double>(i % half) / static_cast<double>(half));
  const double angle = static_cast<double>(i / half) * frequency;
  table[2 * i] = static_cast<float>(cos(angle));
  table[2 * i + 1] = static_cast<float>(sin(angle));
}

template <typename T>
struct Rotation {
  T* x;
  const int32_t* positions;
  const float* table;
  int64_t token_stride, num_positions;
  int num_heads, half;
  float direction;  // -1 rotates back
};

template <typename T, int kWidth>
__global__ void RotateKernel(Rotation<T> rotation) {
  const int64_t t = blockIdx.x, position = rotation.positions[t];
  MUSTER_DEVICE_CHECK(position >= 0 && position < rotation.num_positions,
                      "Rope: position %lld of token %lld is outside the table of %lld",
                      static_cast<long long>(position), static_cast<long long>(t),
                      static_cast<long long>(rotation.num_positions));
  T* token = rotation.x + t * rotation.token_stride;
  const float* row = rotation.table + position * rotation.half * 2;
  const int vectors_of_head = rotation.half / kWidth;
  for (int i = threadIdx.x; i < rotation.num_heads * vectors_of_head; i += blockDim.x) {
    const int head = i / vectors_of_head, c = i % vectors_of_head * kWidth;
    T* x = token + static_cast<int64_t>(head) * rotation.half * 2 + c;
    float a[kWidth], b[kWidth], angle[2 * kWidth], rotated[kWidth];
    LoadFloats(x, a);
    LoadFloats(x + rotation.half, b);
    if constexpr (kWidth == 1) {  // the table may be aligned to single elements only
      angle[0] = row[2 * c];
      angle[1] = row[2 * c + 1];
    } else {
      LoadFloats(row + 2 * c, angle);
    }
#pragma unroll
    for (int j = 0; j < kWidth; ++j) {
      angle[2 * j + 1] *= rotation.direction;
      rotated[j] = a[j] * angle[2 * j] - b[j] * angle[2 * j + 1];
    }
    StoreFloats(x, rotated);
#pragma unroll
    for (int j = 0; j < kWidth; ++j) rotated[j] = b[j] * angle[2 * j] + a[j] * angle[2 * j + 1];
    StoreFloats(x + rotation.half, rotated);
  }
}

}  // namespace

void RopeTable(const RopeTableArgs& args, StreamView stream) {
  CheckArgs(args);
  if (!IsFloat32("RopeTable", args.table.dtype, stream)) return;
  const int64_t num_positions = args.table.shape[0], half = args.table.shape[1];
  Launch("RopeTable", stream, TableKernel, FlatShape(num_positions * half),
         Elements<float>(args.table), num_positions, half, args.theta);
}

void Rope(const RopeArgs& args, StreamView stream) {
  CheckArgs(args);
  const int64_t num_heads = args.x.shape[1], half = args.x.shape[2] / 2;
  MUSTER_CHECK(num_heads * half < (int64_t{1} << 31)) << "Rope: tokens of " << args.x.ToString();
  SwitchStorage("Rope", args.x.dtype, stream, [&](auto tag) {
    using T = decltype(tag);
    const Rotation<T> rotation{.x = Elements<T>(args.x),
                               .positions = Elements<int32_t>(args.positions),
                               .table = Elements<float>(args.table),
                               .token_stride = args.x.strides[0],
                               .num_positions = args.table.shape[0],
                               .num_heads = static_cast<int>(num_heads),
                               .half = static_cast<int>(half),
                               .direction = args.backward ? -1.0f : 1.0f};
    constexpr int64_t kBytes = sizeof(T);
    const bool vectorize = CanVectorize(half * kBytes, {rotation.x, rotation.table}) &&
                           rotation.token_stride * kBytes % kVectorBytes == 0;
    SwitchWidth<T>(vectorize, [&](auto width) {
      Launch("Rope", stream, RotateKernel<T, width()>,
             RowLoopShape(args.x.shape[0], num_heads * half / width()), rotation);
    });
  });
}

}  // namespace muster::kernels::cuda
