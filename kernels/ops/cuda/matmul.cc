// Matrix products through cuBLASLt; matmul_plan.h says how an algorithm is chosen. fp32 is
// multiplied as fp32 (no TF32), bf16 accumulates in fp32; where a long odd sum is cut in two, its
// short part is rounded to c's dtype on the way.
#include "kernels/ops/matmul.h"

#include <cuda_runtime.h>

#include <algorithm>
#include <cstdint>

#include "kernels/base/error.h"
#include "kernels/device/cuda_status.h"
#include "kernels/ops/cuda/matmul_plan.h"
#include "kernels/ops/matmul_key.h"

namespace muster::kernels::cuda {
namespace {

// Sums over no k: zero, the bias in every row, or what was there.
absl::Status EmptySum(const MatmulArgs& args, cudaStream_t stream) {
  if (args.accumulate) return absl::OkStatus();
  const int64_t rows = args.c.shape[0];
  const size_t width = static_cast<size_t>(args.c.shape[1] * SizeOf(args.c.dtype));
  const size_t pitch =
      rows > 1 ? static_cast<size_t>(args.c.strides[0] * SizeOf(args.c.dtype)) : width;
  char* c = static_cast<char*>(args.c.data);
  if (!args.bias) {
    return ToStatus(cudaMemset2DAsync(c, pitch, 0, width, static_cast<size_t>(rows), stream),
                    "Matmul: cudaMemset2DAsync");
  }
  RETURN_IF_ERROR(
      ToStatus(cudaMemcpyAsync(c, args.bias.data, width, cudaMemcpyDeviceToDevice, stream),
               "Matmul: cudaMemcpyAsync"));
  for (int64_t done = 1; done < rows; done *= 2) {
    const size_t count = static_cast<size_t>(std::min(done, rows - done));
    RETURN_IF_ERROR(
        ToStatus(cudaMemcpy2DAsync(c + static_cast<size_t>(done) * pitch, pitch, c, pitch, width,
                                   count, cudaMemcpyDeviceToDevice, stream),
                 "Matmul: cudaMemcpy2DAsync"));
  }
  return absl::OkStatus();
}

absl::Status Run(const MatmulArgs& args, StreamView stream) {
  const auto cuda_stream = static_cast<cudaStream_t>(stream.native_handle());
  const MatmulKey key = MatmulKey::Of(args);
  if (key.m == 0 || key.n == 0) return absl::OkStatus();
  if (key.k == 0) return EmptySum(args, cuda_stream);
  ASSIGN_OR_RETURN(MatmulPlans* const plans, MatmulPlans::Of(stream));
  const MatmulPlan::Operands operands = {
      .a = args.a.data, .b = args.b.data, .bias = args.bias.data, .c = args.c.data};
  ASSIGN_OR_RETURN(MatmulPlan* const plan, plans->Get(key, operands, stream));
  return plan->Run(plans->handle(), plan->algorithm, operands, stream);
}

}  // namespace

void Matmul(const MatmulArgs& args, StreamView stream) {
  CheckArgs(args);
  if (args.a.dtype == DType::kFloat64) {
    stream.Fail(absl::UnimplementedError("Matmul of fp64 runs on CPU only; wanted fp32 or bf16"));
    return;
  }
  const absl::Status status =
      ForEachPart(args, [&](const MatmulArgs& part) { return Run(part, stream); });
  if (!status.ok()) stream.Fail(status);
}

}  // namespace muster::kernels::cuda
