// RMSNorm: the kernels that it shares with LayerNorm, without a mean.
#include "kernels/ops/cuda/norm_backward.cuh"
#include "kernels/ops/cuda/norm_forward.cuh"
#include "kernels/ops/rms_norm.h"

namespace muster::kernels::cuda {

void RmsNormForward(const RmsNormForwardArgs& args, StreamView stream) {
  const char* op = "RmsNormForward";
  CheckArgs(args);
  SwitchStorage(op, args.x.dtype, stream, [&](auto tag) {
    using T = decltype(tag);
    RunNormForward</*kCentred=*/false, T>(op,
                                          {.x = Elements<T>(args.x),
                                           .residual = Elements<T>(args.residual),
                                           .weight = Elements<T>(args.weight),
                                           .bias = nullptr,
                                           .h = Elements<T>(args.h),
                                           .y = Elements<T>(args.y),
                                           .mean = nullptr,
                                           .rstd = Elements<float>(args.rstd),
                                           .num_rows = args.x.shape[0],
                                           .dim = args.x.shape[1],
                                           .epsilon = args.epsilon},
                                          stream);
  });
}

void RmsNormBackward(const RmsNormBackwardArgs& args, StreamView stream) {
  const char* op = "RmsNormBackward";
  CheckArgs(args);
  SwitchStorage(op, args.h.dtype, stream, [&](auto tag) {
    using T = decltype(tag);
    RunNormBackward</*kCentred=*/false, T>(op,
                                           {.d_y = Elements<T>(args.d_y),
                                            .h = Elements<T>(args.h),
                                            .d_residual = Elements<T>(args.d_residual),
                                            .weight = Elements<T>(args.weight),
                                            .mean = nullptr,
                                            .rstd = Elements<float>(args.rstd),
                                            .d_h = Elements<T>(args.d_h),
                                            .partials = nullptr,
                                            .num_rows = args.h.shape[0],
                                            .dim = args.h.shape[1]},
                                           {Elements<float>(args.d_weight)}, stream);
  });
}

}  // namespace muster::kernels::cuda
