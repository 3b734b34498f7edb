#include "kernels/ops/adamw.h"

#include <algorithm>
#include <cmath>

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

// In blocks that stay in the first-level cache between the update and the cast.
template <typename A, typename T>
void UpdateAndCast(const Coefficients<A>& c, const AdamWRange& range) {
  constexpr int64_t kBlock = 1024;
  A* master = static_cast<A*>(range.master);
  T* weight = static_cast<T*>(range.weight);
  const bool cast = range.weight != range.master;
  for (int64_t begin = 0; begin < range.count; begin += kBlock) {
    const int64_t count = std::min(kBlock, range.count - begin);
    Update<A>(c, static_cast<const A*>(range.grad) + begin, master + begin,
              static_cast<A*>(range.moment1) + begin, static_cast<A*>(range.moment2) + begin,
              count);
    if (!cast) continue;
    for (int64_t i = begin; i < begin + count; ++i) weight[i] = static_cast<T>(master[i]);
  }
}

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
  for (int64_t i = 0; i < args.table.num_ranges; ++i) {
    const AdamWRange& range = args.table.ranges<AdamWRange>()[i];
    c.weight_decay = static_cast<A>(range.weight_decay);
    UpdateAndCast<A, T>(c, range);
  }
}

}  // namespace

void AdamW(const AdamWArgs& args) {
  CheckArgs(args);
  SwitchAccumulator(args.grad_scale.dtype, [&](auto accumulator) {
    using A = decltype(accumulator);
    const A scale = *args.grad_scale.as<A>();
    if (!std::isfinite(scale) || scale == A{0}) return;
    SwitchStorage(args.weight_dtype,
                  [&](auto storage) { UpdateAll<A, decltype(storage)>(args, scale); });
  });
}

}  // namespace muster::kernels::cpu
