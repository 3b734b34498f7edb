// LayerNorm: the kernels that it shares with RMSNorm, with a mean.
#include "kernels/ops/cuda/norm_backward.cuh"
#include "kernels/ops/cuda/norm_forward.cuh"
#include "kernels/ops/layer_norm.h"

namespace muster::kernels::cuda {

void LayerNormForward(const LayerNormForwardArgs& args, StreamView stream) {
  const char* op = "LayerNormForward";
  CheckArgs(args);
  SwitchStorage(op, args.x.dtype, stream, [&](auto tag) {
    using T = decltype(tag);
    RunNormForward</*kCentred=*/true, T>(op,
                                         {.x = Elements<T>(args.x),
                                          .residual = Elements<T>(args.residual),
                                          .weight = Elements<T>(args.weight),
                                          .bias = Elements<T>(args.bias),
                                          .h = Elements<T>(args.h),
                                          .y = Elements<T>(args.y),
                                          .mean = Elements<float>(args.mean),
                                          .rstd = Elements<float>(args.rstd),
                                          .num_rows = args.x.shape[0],
                                          .dim = args.x.shape[1],
                                          .epsilon = args.epsilon},
                                         stream);
  });
}

void LayerNormBackward(const LayerNormBackwardArgs& args, StreamView stream) {
  const char* op = "LayerNormBackward";
  CheckArgs(args);
  SwitchStorage(op, args.h.dtype, stream, [&](auto tag) {
    using T = decltype(tag);
    RunNormBackward</*kCentred=*/true, T>(
        op,
        {.d_y = Elements<T>(args.d_y),
         .h = Elements<T>(args.h),
         .d_residual = Elements<T>(args.d_residual),
         .weight = Elements<T>(args.weight),
         .mean = Elements<float>(args.mean),
         .rstd = Elements<float>(args.rstd),
         .d_h = Elements<T>(args.d_h),
         .partials = nullptr,
         .num_rows = args.h.shape[0],
         .dim = args.h.shape[1]},
        {Elements<float>(args.d_weight), Elements<float>(args.d_bias)}, stream);
  });
}

}  // namespace muster::kernels::cuda
