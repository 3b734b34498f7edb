// Matrix products through cuBLASLt; matmul_plan.h says how an algorithm is chosen. fp32 is
// multiplied as fp32 (no TF32), bf16 accumulates in fp32; where a long odd sum is cut in two, its
// short part is rounded to c's dtype on the way.
#include "kernels/ops/matmul.h"

#include <cuda_runtime.h>

#include <algorithm>
#include <cstdint>
#include <initializer_list>
#include <string>

#include "kernels/base/error.h"
#include "kernels/ops/cuda/context.h"
#include "kernels/ops/cuda/matmul_plan.h"

namespace muster::kernels::cuda {
namespace {

absl::Status CudaStatus(cudaError_t error, const char* what) {
  if (error == cudaSuccess) return absl::OkStatus();
  return absl::InternalError(std::string("Matmul: ") + what + ": " + cudaGetErrorString(error));
}

// Sums over no k: zero, the bias in every row, or what was there.
absl::Status EmptySum(const MatmulArgs& args, cudaStream_t stream) {
  if (args.accumulate) return absl::OkStatus();
  const int64_t rows = args.c.shape[0];
  const size_t width = static_cast<size_t>(args.c.shape[1] * SizeOf(args.c.dtype));
  const size_t pitch =
      rows > 1 ? static_cast<size_t>(args.c.strides[0] * SizeOf(args.c.dtype)) : width;
  char* c = static_cast<char*>(args.c.data);
  if (!args.bias) {
    return CudaStatus(cudaMemset2DAsync(c, pitch, 0, width, static_cast<size_t>(rows), stream),
                      "cudaMemset2DAsync");
  }
  RETURN_IF_ERROR(CudaStatus(
      cudaMemcpyAsync(c, args.bias.data, width, cudaMemcpyDeviceToDevice, stream), "copying"));
  for (int64_t done = 1; done < rows; done *= 2) {
    const size_t count = static_cast<size_t>(std::min(done, rows - done));
    RETURN_IF_ERROR(
        CudaStatus(cudaMemcpy2DAsync(c + static_cast<size_t>(done) * pitch, pitch, c, pitch, width,
                                     count, cudaMemcpyDeviceToDevice, stream),
                   "cudaMemcpy2DAsync"));
  }
  return absl::OkStatus();
}

absl::Status RunWhole(const MatmulArgs& args, StreamView stream) {
  const auto cuda_stream = static_cast<cudaStream_t>(stream.native_handle());
  const MatmulKey key = MatmulKey::Of(args);
  if (key.m == 0 || key.n == 0) return absl::OkStatus();
  if (key.k == 0) return EmptySum(args, cuda_stream);
  CudaContext& context = CudaContext::Of(stream);
  if (context.matmul == nullptr) {
    ASSIGN_OR_RETURN(context.matmul,
                     MatmulPlans::Create(stream.device(), MatmulTuning::FromEnvironment()));
  }
  auto& plans = static_cast<MatmulPlans&>(*context.matmul);
  const MatmulPlan::Operands operands = {
      .a = args.a.data, .b = args.b.data, .bias = args.bias.data, .c = args.c.data};
  ASSIGN_OR_RETURN(MatmulPlan* const plan, plans.Get(key, operands, stream));
  return plan->Run(plans.handle(), plan->algorithm, operands, stream);
}

// bf16 products whose contiguous dims are no multiple of 8 elements (16 bytes) run at a sixth of
// the speed, however far apart their rows are: GPT-2's vocabulary of 50,257 is one. So such a dim,
// if it is long, is cut into a part that is a multiple and a tail of less than 8.
constexpr int64_t kUnit = 8, kMinCut = 256;

// Where to cut a dim of `size` that is contiguous in these operands; `size`: not at all. In vain
// unless the rows of all of them start at multiples of 16 bytes.
int64_t CutOf(int64_t size, std::initializer_list<const TensorView*> contiguous_in) {
  if (size < kMinCut || size % kUnit == 0 || contiguous_in.size() == 0) return size;
  for (const TensorView* x : contiguous_in) {
    const bool aligned = reinterpret_cast<uintptr_t>(x->data) % 16 == 0 &&
                         (x->shape[0] <= 1 || x->strides[0] % kUnit == 0);
    if (x->dtype != DType::kBFloat16 || !aligned) return size;
  }
  return size / kUnit * kUnit;
}

absl::Status Run(const MatmulArgs& args, StreamView stream) {
  const TensorView &a = args.a, &b = args.b, &c = args.c;
  const int64_t m = c.shape[0], n = c.shape[1], k = a.shape[args.a_transposed ? 0 : 1];
  const auto rows_of_c = [&](int64_t begin, int64_t end) {
    MatmulArgs part = args;
    part.a = a.Slice(args.a_transposed ? 1 : 0, begin, end);
    part.c = c.Slice(0, begin, end);
    return part;
  };
  const auto columns_of_c = [&](int64_t begin, int64_t end) {
    MatmulArgs part = args;
    part.b = b.Slice(args.b_transposed ? 0 : 1, begin, end);
    part.c = c.Slice(1, begin, end);
    if (args.bias) part.bias = args.bias.Slice(0, begin, end);
    return part;
  };
  const auto sum_over = [&](int64_t begin, int64_t end) {
    MatmulArgs part = args;
    part.a = a.Slice(args.a_transposed ? 0 : 1, begin, end);
    part.b = b.Slice(args.b_transposed ? 1 : 0, begin, end);
    return part;
  };
  if (a.dtype == DType::kBFloat16) {
    const int64_t cut_n = c.dtype != DType::kBFloat16 ? n
                          : args.b_transposed         ? CutOf(n, {&c})
                                                      : CutOf(n, {&c, &b});
    if (cut_n < n) {
      RETURN_IF_ERROR(Run(columns_of_c(0, cut_n), stream));
      return RunWhole(columns_of_c(cut_n, n), stream);
    }
    const int64_t cut_m = args.a_transposed ? CutOf(m, {&a}) : m;
    if (cut_m < m) {
      RETURN_IF_ERROR(Run(rows_of_c(0, cut_m), stream));
      return RunWhole(rows_of_c(cut_m, m), stream);
    }
    const int64_t cut_k = args.a_transposed && !args.b_transposed ? k
                          : args.a_transposed                     ? CutOf(k, {&b})
                          : args.b_transposed                     ? CutOf(k, {&a, &b})
                                                                  : CutOf(k, {&a});
    if (cut_k < k) {
      // The tail first: rounding it to c's dtype loses less than rounding the bulk would.
      RETURN_IF_ERROR(RunWhole(sum_over(cut_k, k), stream));
      MatmulArgs bulk = sum_over(0, cut_k);
      bulk.bias = {};
      bulk.accumulate = true;
      return RunWhole(bulk, stream);
    }
  }
  return RunWhole(args, stream);
}

}  // namespace

void Matmul(const MatmulArgs& args, StreamView stream) {
  CheckArgs(args);
  if (args.a.dtype == DType::kFloat64) {
    stream.Fail(absl::UnimplementedError("Matmul of fp64 runs on CPU only; wanted fp32 or bf16"));
    return;
  }
  const absl::Status status = Run(args, stream);
  if (!status.ok()) stream.Fail(status);
}

}  // namespace muster::kernels::cuda
