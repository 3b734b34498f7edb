#include "kernels/ops/copy_rows.h"

#include "kernels/ops/cpu/dtype_switch.h"

namespace muster::kernels::cpu {
namespace {

template <typename To, typename From>
void CopyTyped(const CopyRowsArgs& args) {
  using A = Accumulator<To>;
  const int64_t num_outer = args.x.shape[0], num_rows = args.x.shape[1], width = args.x.shape[2];
  for (int64_t a = 0; a < num_outer; ++a) {
    for (int64_t n = 0; n < num_rows; ++n) {
      const From* x = args.x.as<From>() + a * args.x.strides[0] + n * args.x.strides[1];
      To* out = args.out.as<To>() + a * args.out.strides[0] + n * args.out.strides[1];
      if (args.accumulate) {
        for (int64_t i = 0; i < width; ++i) {
          out[i] = static_cast<To>(static_cast<A>(out[i]) +
                                   static_cast<A>(static_cast<Accumulator<From>>(x[i])));
        }
      } else {
        for (int64_t i = 0; i < width; ++i) {
          out[i] = static_cast<To>(static_cast<A>(static_cast<Accumulator<From>>(x[i])));
        }
      }
    }
  }
}

}  // namespace

void CopyRows(const CopyRowsArgs& args) {
  CheckArgs(args);
  SwitchStorage(args.x.dtype, [&](auto from) {
    SwitchStorage(args.out.dtype, [&](auto to) { CopyTyped<decltype(to), decltype(from)>(args); });
  });
}

}  // namespace muster::kernels::cpu
