// Digests of ranges: reads x once, 2 or 4 bytes an element; a block takes a piece of one range.
#include "kernels/ops/cuda/launch.cuh"
#include "kernels/ops/cuda/range_pieces.cuh"
#include "kernels/ops/cuda/word_digest.cuh"
#include "kernels/ops/digest.h"

namespace muster::kernels::cuda {
namespace {

template <typename T>
__global__ void __launch_bounds__(kFlatThreads)
    DigestKernel(const T* all, const DigestRange* ranges, const RangePiece* pieces, int64_t* out) {
  const RangePiece piece = pieces[blockIdx.x];
  const DigestRange range = ranges[piece.range];
  const T* x = all + range.begin;
  const int64_t begin = piece.index * kRangePiece, end = min(begin + kRangePiece, range.count);
  uint64_t digest = 0;
  ForEachOf<kVectorOf<T>>(begin, end, AreAligned({x}), [&]<int kWidth>(int64_t at) {
    const auto pack = *reinterpret_cast<const Pack<T, kWidth>*>(x + at);
    digest += DigestOf(at, pack.v);
  });
  AddDigest(digest, out + piece.range);
}

}  // namespace

void Digest(const DigestArgs& args, StreamView stream) {
  CheckArgs(args);
  SwitchStorage("Digest", args.x.dtype, stream, [&](auto tag) {
    using T = decltype(tag);
    Launch("Digest", stream, DigestKernel<T>,
           LaunchShape{.blocks = args.table.num_pieces, .threads_x = kFlatThreads},
           Elements<T>(args.x), args.table.ranges<DigestRange>(), args.table.pieces<DigestRange>(),
           Elements<int64_t>(args.out));
  });
}

}  // namespace muster::kernels::cuda
