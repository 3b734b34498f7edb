#include "kernels/ops/balance.h"

#include "kernels/ops/cpu/dtype_switch.h"

namespace muster::kernels::cpu {

void AddCounts(const AddCountsArgs& args) {
  CheckArgs(args);
  const int64_t* counts = args.counts.as<int64_t>();
  int64_t* total = args.total.as<int64_t>();
  for (int64_t i = 0; i < args.total.num_elements(); ++i) total[i] += counts[i];
}

void UpdateBalance(const UpdateBalanceArgs& args) {
  CheckArgs(args);
  const int64_t num_layers = args.counts.shape[0], num_experts = args.counts.shape[1];
  for (int64_t layer = 0; layer < num_layers; ++layer) {
    const int64_t* counts = args.counts.as<int64_t>() + layer * num_experts;
    int64_t sum = 0;
    for (int64_t e = 0; e < num_experts; ++e) sum += counts[e];
    if (args.load) {
      SwitchAccumulator(args.load.dtype, [&](auto tag) {
        auto* load = args.load.as<decltype(tag)>() + layer * num_experts;
        for (int64_t e = 0; e < num_experts; ++e) {
          const double share = sum > 0 ? static_cast<double>(counts[e]) / static_cast<double>(sum)
                                       : 1.0 / static_cast<double>(num_experts);
          load[e] = static_cast<decltype(tag)>(args.top_k * share);
        }
      });
    }
    if (args.bias) {
      SwitchAccumulator(args.bias.dtype, [&](auto tag) {
        using A = decltype(tag);
        A* bias = args.bias.as<A>() + layer * num_experts;
        for (int64_t e = 0; e < num_experts; ++e) {
          const int64_t missing = sum - num_experts * counts[e];
          const A sign = static_cast<A>((missing > 0) - (missing < 0));
          bias[e] += static_cast<A>(args.rate) * sign;
        }
      });
    }
  }
}

}  // namespace muster::kernels::cpu
