// AdamW in one pass: reads gradient, master weight and both moments, writes the latter three and
// the weight; 30 bytes a weight in bf16, 28 in fp32. The clip coefficient is read on the device. A
// block takes a piece of one range: norms and biases cost a block each, not a launch. Digests are
// taken of what is in registers; they read a bf16 weight besides, 2 bytes.
#include <cmath>

#include "kernels/ops/adamw.h"
#include "kernels/ops/cuda/launch.cuh"
#include "kernels/ops/cuda/range_pieces.cuh"
#include "kernels/ops/cuda/vector.cuh"
#include "kernels/ops/cuda/word_digest.cuh"

namespace muster::kernels::cuda {
namespace {

struct Digests {
  uint64_t read = 0, left = 0;
};

template <typename T>
struct Update {
  const float* grad;
  float *master, *moment1, *moment2;
  T* weight;  // null if it is the master
  const float* grad_scale;
  float beta1, beta2, bias_correction1, bias_correction2, learning_rate, epsilon, weight_decay;

  template <int kWidth>
  __device__ static uint64_t DigestState(int64_t at, const float (&w)[kWidth],
                                         const float (&m)[kWidth], const float (&v)[kWidth]) {
    if constexpr (kWidth == 1) {
      const auto term = [at](float value) {
        return DigestTerm(static_cast<uint64_t>(at), BitsOf(value));
      };
      return term(w[0]) + 3 * term(m[0]) + 5 * term(v[0]);
    } else {
      const auto words = [&](int i) {
        return BitsOf(w[i]) + uint64_t{3} * BitsOf(m[i]) + uint64_t{5} * BitsOf(v[i]);
      };
      uint64_t digest = 0;
#pragma unroll
      for (int i = 0; i < kWidth; i += 2) {
        digest += DigestTerm(DigestKeysOf((at + i) / 2), words(i), words(i + 1));
      }
      return digest;
    }
  }

  template <int kWidth, bool kDigests>
  __device__ void Run(int64_t at, Digests& digests) const {
    const float scale = *grad_scale;
    const bool skips = !isfinite(scale) || scale == 0.0f;
    if (skips && !kDigests) return;
    float g[kWidth], w[kWidth], m[kWidth], v[kWidth];
    Pack<T, kWidth> rounded{};
    if (!skips) LoadFloats(grad + at, g);
    LoadFloats(master + at, w);
    LoadFloats(moment1 + at, m);
    LoadFloats(moment2 + at, v);
    if constexpr (kDigests) {
      digests.read += DigestState(at, w, m, v);
      if (weight != nullptr) {
        rounded = *reinterpret_cast<const Pack<T, kWidth>*>(weight + at);
        digests.read += 7 * DigestOf(at, rounded.v);
      }
    }
    if (!skips) {
#pragma unroll
      for (int i = 0; i < kWidth; ++i) {
        g[i] *= scale;
        m[i] = beta1 * m[i] + (1.0f - beta1) * g[i];
        v[i] = beta2 * v[i] + (1.0f - beta2) * g[i] * g[i];
        const float step = m[i] * bias_correction1 / (sqrtf(v[i] * bias_correction2) + epsilon);
        w[i] -= learning_rate * (step + weight_decay * w[i]);
        rounded.v[i] = FromFloat<T>(w[i]);
      }
      StoreFloats(moment1 + at, m);
      StoreFloats(moment2 + at, v);
      StoreFloats(master + at, w);
      if (weight != nullptr) *reinterpret_cast<Pack<T, kWidth>*>(weight + at) = rounded;
    }
    if constexpr (kDigests) {
      digests.left += DigestState(at, w, m, v);
      if (weight != nullptr) digests.left += 7 * DigestOf(at, rounded.v);
    }
  }
};

// `update` has the numbers that all ranges share. Digests want 80 registers: at more than three
// blocks a multiprocessor they spill.
template <typename T, bool kDigests>
__global__ void __launch_bounds__(kFlatThreads, kDigests ? 3 : 5)
    UpdateKernel(const AdamWRange* ranges, const RangePiece* pieces, Update<T> update,
                 int64_t* digests) {
  const RangePiece piece = pieces[blockIdx.x];
  const AdamWRange range = ranges[piece.range];
  update.grad = static_cast<const float*>(range.grad);
  update.master = static_cast<float*>(range.master);
  update.moment1 = static_cast<float*>(range.moment1);
  update.moment2 = static_cast<float*>(range.moment2);
  update.weight = range.weight == range.master ? nullptr : static_cast<T*>(range.weight);
  update.weight_decay = range.weight_decay;
  const bool vectorize =
      AreAligned({range.grad, range.master, range.moment1, range.moment2, range.weight});
  const int64_t begin = piece.index * kRangePiece, end = min(begin + kRangePiece, range.count);
  Digests sums;
  ForEachOf<kVectorOf<float>>(begin, end, vectorize, [&]<int kWidth>(int64_t at) {
    update.template Run<kWidth, kDigests>(at, sums);
  });
  if constexpr (kDigests) {
    AddDigest(sums.read, digests + 2 * piece.range);
    AddDigest(sums.left, digests + 2 * piece.range + 1);
  }
}

// 1 / (1 - beta^t).
float BiasCorrection(float beta, int64_t step) {
  return static_cast<float>(1.0 / (1.0 - std::pow(double{beta}, static_cast<double>(step))));
}

}  // namespace

void AdamW(const AdamWArgs& args, StreamView stream) {
  CheckArgs(args);
  SwitchStorage("AdamW", args.weight_dtype, stream, [&](auto tag) {
    using T = decltype(tag);
    const Update<T> update{.grad = nullptr,
                           .master = nullptr,
                           .moment1 = nullptr,
                           .moment2 = nullptr,
                           .weight = nullptr,
                           .grad_scale = Elements<float>(args.grad_scale),
                           .beta1 = args.beta1,
                           .beta2 = args.beta2,
                           .bias_correction1 = BiasCorrection(args.beta1, args.step),
                           .bias_correction2 = BiasCorrection(args.beta2, args.step),
                           .learning_rate = args.learning_rate,
                           .epsilon = args.epsilon,
                           .weight_decay = 0};
    Launch("AdamW", stream, args.digests ? UpdateKernel<T, true> : UpdateKernel<T, false>,
           LaunchShape{.blocks = args.table.num_pieces, .threads_x = kFlatThreads},
           args.table.ranges<AdamWRange>(), args.table.pieces<AdamWRange>(), update,
           Elements<int64_t>(args.digests));
  });
}

}  // namespace muster::kernels::cuda
