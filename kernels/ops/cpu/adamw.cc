#include "kernels/ops/adamw.h"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "kernels/base/word_digest.h"
#include "kernels/ops/cpu/dtype_switch.h"

namespace muster::kernels::cpu {
namespace {

template <typename A>
struct Coefficients {
  A scale, beta1, beta2, bias_correction1, bias_correction2, learning_rate, epsilon, weight_decay;
};

template <typename A>
void Update(const Coefficients<A>& c, const A* __restrict grad, A* __restrict master,
            A* __restrict moment1, A* __restrict moment2, int64_t count) {
  for (int64_t i = 0; i < count; ++i) {
    const A g = grad[i] * c.scale;
    const A m = c.beta1 * moment1[i] + (A{1} - c.beta1) * g;
    const A v = c.beta2 * moment2[i] + (A{1} - c.beta2) * g * g;
    moment1[i] = m;
    moment2[i] = v;
    const A step = m * c.bias_correction1 / (std::sqrt(v * c.bias_correction2) + c.epsilon);
    master[i] -= c.learning_rate * (step + c.weight_decay * master[i]);
  }
}

constexpr int64_t kBlock = 1024;  // elements; of all arrays they stay in the first-level cache

// The sum of pair i of words of the state's arrays, by their factors.
struct StateWords {
  uint64_t even, odd;
};
template <typename A>
StateWords WordsOf(const A* master, const A* moment1, const A* moment2, int64_t i) {
  const auto pair_of = [i](const A* from) {
    uint64_t pair;
    std::memcpy(&pair, reinterpret_cast<const char*>(from) + 8 * i, sizeof(pair));
    return pair;
  };
  const uint64_t w = pair_of(master), m = pair_of(moment1), v = pair_of(moment2);
  constexpr uint64_t kEven = 0xffffffffu;
  return {(w & kEven) + 3 * (m & kEven) + 5 * (v & kEven),
          (w >> 32) + 3 * (m >> 32) + 5 * (v >> 32)};
}

// Of elements [begin, begin + count), at most a block, of a range.
template <typename A, typename T>
uint64_t StateDigest(const AdamWRange& range, int64_t begin, int64_t count) {
  const A* master = static_cast<const A*>(range.master) + begin;
  const A* moment1 = static_cast<const A*>(range.moment1) + begin;
  const A* moment2 = static_cast<const A*>(range.moment2) + begin;
  constexpr auto kPerPair = static_cast<int64_t>(8 / sizeof(A));
  const int64_t pairs = count / kPerPair;
  const auto first = static_cast<uint64_t>(begin / kPerPair);
  uint64_t digest = 0;
  for (int64_t i = 0; i < pairs; ++i) {
    const StateWords words = WordsOf(master, moment1, moment2, i);
    digest += DigestTerm(DigestKeysOf(first + static_cast<uint64_t>(i)), words.even, words.odd);
  }
  for (int64_t i = pairs * kPerPair; i < count; ++i) {  // one fp32 may be left
    const auto term = [i, begin](const A* from) {
      return WordDigest(from + i, sizeof(A), static_cast<uint64_t>((begin + i) / kPerPair));
    };
    digest += term(master) + 3 * term(moment1) + 5 * term(moment2);
  }
  if (range.weight == range.master) return digest;
  constexpr auto kWeightSize = static_cast<int64_t>(sizeof(T));
  return digest + 7 * WordDigest(static_cast<const T*>(range.weight) + begin, count * kWeightSize,
                                 static_cast<uint64_t>(begin * kWeightSize / 8));
}

// `digests`: of the range, or null.
template <typename A, typename T>
void UpdateAndCast(const Coefficients<A>& c, const AdamWRange& range, uint64_t* digests) {
  A* master = static_cast<A*>(range.master);
  T* weight = static_cast<T*>(range.weight);
  for (int64_t begin = 0; begin < range.count; begin += kBlock) {
    const int64_t count = std::min(kBlock, range.count - begin);
    if (digests != nullptr) digests[0] += StateDigest<A, T>(range, begin, count);
    if (c.scale != A{0}) {
      Update<A>(c, static_cast<const A*>(range.grad) + begin, master + begin,
                static_cast<A*>(range.moment1) + begin, static_cast<A*>(range.moment2) + begin,
                count);
    }
    if (c.scale != A{0} && range.weight != range.master) {
      for (int64_t i = begin; i < begin + count; ++i) weight[i] = static_cast<T>(master[i]);
    }
    if (digests != nullptr) digests[1] += StateDigest<A, T>(range, begin, count);
  }
}

// `scale` 0: only the digests.
template <typename A, typename T>
void UpdateAll(const AdamWArgs& args, A scale) {
  const auto correction = [&](float beta) {
    return static_cast<A>(1.0 / (1.0 - std::pow(double{beta}, static_cast<double>(args.step))));
  };
  Coefficients<A> c{scale,
                    static_cast<A>(args.beta1),
                    static_cast<A>(args.beta2),
                    correction(args.beta1),
                    correction(args.beta2),
                    static_cast<A>(args.learning_rate),
                    static_cast<A>(args.epsilon),
                    A{0}};
  auto* digests = static_cast<uint64_t*>(args.digests.data);
  for (int64_t i = 0; i < args.table.num_ranges; ++i) {
    const AdamWRange& range = args.table.ranges<AdamWRange>()[i];
    c.weight_decay = static_cast<A>(range.weight_decay);
    UpdateAndCast<A, T>(c, range, digests == nullptr ? nullptr : digests + 2 * i);
  }
}

}  // namespace

void AdamW(const AdamWArgs& args) {
  CheckArgs(args);
  SwitchAccumulator(args.grad_scale.dtype, [&](auto accumulator) {
    using A = decltype(accumulator);
    const A given = *args.grad_scale.as<A>(), scale = std::isfinite(given) ? given : A{0};
    if (scale == A{0} && !args.digests) return;
    SwitchStorage(args.weight_dtype,
                  [&](auto storage) { UpdateAll<A, decltype(storage)>(args, scale); });
  });
}

}  // namespace muster::kernels::cpu
