#include "kernels/ops/cuda/matmul_plan.h"

#include <algorithm>
#include <cstdlib>
#include <string_view>
#include <vector>

#include "absl/strings/str_cat.h"
#include "kernels/base/error.h"
#include "kernels/base/log.h"
#include "kernels/ops/cuda/context.h"

namespace muster::kernels::cuda {
namespace {

// The largest power of two up to 16 that divides the address and the row stride in bytes.
int AlignmentOf(const TensorView& x, int64_t stride) {
  const auto bits = reinterpret_cast<uintptr_t>(x.data) |
                    static_cast<uintptr_t>(stride * SizeOf(x.dtype)) | uintptr_t{16};
  return static_cast<int>(bits & (~bits + 1));
}

// A dim of one row leaves its stride open; the library wants it at least as long as a row.
int64_t RowStride(const TensorView& x) {
  return x.shape[0] > 1 ? x.strides[0] : std::max<int64_t>(x.shape[1], 1);
}

cudaDataType_t LibraryType(DType dtype) {
  return dtype == DType::kBFloat16 ? CUDA_R_16BF : CUDA_R_32F;
}

template <typename T>
cublasStatus_t Set(cublasLtMatmulDesc_t product, cublasLtMatmulDescAttributes_t attribute,
                   const T& value) {
  return cublasLtMatmulDescSetAttribute(product, attribute, &value, sizeof(value));
}

}  // namespace

absl::Status ToStatus(cublasStatus_t status, const std::string& what) {
  if (status == CUBLAS_STATUS_SUCCESS) return absl::OkStatus();
  return absl::InternalError(what + ": " + cublasLtGetStatusString(status));
}

MatmulTuning MatmulTuning::FromEnvironment() {
  const char* search = std::getenv("MUSTER_MATMUL_SEARCH");
  const char* cache = std::getenv("MUSTER_MATMUL_CACHE");
  return {.search = search == nullptr || std::string_view(search) != "0",
          .cache_path = cache == nullptr ? "" : cache};
}

MatmulKey MatmulKey::Of(const MatmulArgs& args) {
  MatmulKey key = {.m = args.c.shape[0],
                   .n = args.c.shape[1],
                   .k = args.a.shape[args.a_transposed ? 0 : 1],
                   .a_stride = RowStride(args.a),
                   .b_stride = RowStride(args.b),
                   .c_stride = RowStride(args.c),
                   .storage = args.a.dtype,
                   .result = args.c.dtype,
                   .a_transposed = args.a_transposed,
                   .b_transposed = args.b_transposed,
                   .bias = static_cast<bool>(args.bias),
                   .accumulate = args.accumulate};
  key.a_alignment = AlignmentOf(args.a, key.a_stride);
  key.b_alignment = AlignmentOf(args.b, key.b_stride);
  key.c_alignment = AlignmentOf(args.c, key.c_stride);
  return key;
}

std::string MatmulKey::ToString() const {
  return absl::StrCat("m", m, "_n", n, "_k", k, "_", a_transposed ? "T" : "N",
                      b_transposed ? "T" : "N", "_", Name(storage), "_", Name(result),
                      bias ? "_bias" : "", accumulate ? "_accumulate" : "", "_strides", a_stride,
                      "-", b_stride, "-", c_stride, "_aligned", a_alignment, "-", b_alignment, "-",
                      c_alignment);
}

absl::StatusOr<std::unique_ptr<MatmulPlan>> MatmulPlan::Create(const MatmulKey& key,
                                                               const void* bias) {
  std::unique_ptr<MatmulPlan> plan(new MatmulPlan(key));
  const cublasOperation_t first_op = key.b_transposed ? CUBLAS_OP_T : CUBLAS_OP_N;
  const cublasOperation_t second_op = key.a_transposed ? CUBLAS_OP_T : CUBLAS_OP_N;
  const cublasLtEpilogue_t epilogue = key.bias ? CUBLASLT_EPILOGUE_BIAS : CUBLASLT_EPILOGUE_DEFAULT;
  const cudaDataType_t storage = LibraryType(key.storage), result = LibraryType(key.result);
  const auto extent = [](int64_t value) { return static_cast<uint64_t>(value); };
  const std::string what = "describing matmul " + key.ToString() + " to cuBLASLt";
  RETURN_IF_ERROR(
      ToStatus(cublasLtMatmulDescCreate(&plan->product_, CUBLAS_COMPUTE_32F, CUDA_R_32F), what));
  RETURN_IF_ERROR(ToStatus(Set(plan->product_, CUBLASLT_MATMUL_DESC_TRANSA, first_op), what));
  RETURN_IF_ERROR(ToStatus(Set(plan->product_, CUBLASLT_MATMUL_DESC_TRANSB, second_op), what));
  RETURN_IF_ERROR(ToStatus(Set(plan->product_, CUBLASLT_MATMUL_DESC_EPILOGUE, epilogue), what));
  if (key.bias) {
    RETURN_IF_ERROR(
        ToStatus(Set(plan->product_, CUBLASLT_MATMUL_DESC_BIAS_DATA_TYPE, result), what));
    RETURN_IF_ERROR(ToStatus(Set(plan->product_, CUBLASLT_MATMUL_DESC_BIAS_POINTER, bias), what));
  }
  // As stored: the rows of a column-major matrix are the columns of ours.
  RETURN_IF_ERROR(ToStatus(
      cublasLtMatrixLayoutCreate(&plan->first_, storage, extent(key.b_transposed ? key.k : key.n),
                                 extent(key.b_transposed ? key.n : key.k), key.b_stride),
      what));
  RETURN_IF_ERROR(ToStatus(
      cublasLtMatrixLayoutCreate(&plan->second_, storage, extent(key.a_transposed ? key.m : key.k),
                                 extent(key.a_transposed ? key.k : key.m), key.a_stride),
      what));
  RETURN_IF_ERROR(ToStatus(cublasLtMatrixLayoutCreate(&plan->result_, result, extent(key.n),
                                                      extent(key.m), key.c_stride),
                           what));
  return plan;
}

MatmulPlan::~MatmulPlan() {
  for (cublasLtMatrixLayout_t layout : {first_, second_, result_}) {
    if (layout != nullptr) cublasLtMatrixLayoutDestroy(layout);
  }
  if (product_ != nullptr) cublasLtMatmulDescDestroy(product_);
}

cublasStatus_t MatmulPlan::Run(cublasLtHandle_t handle, const cublasLtMatmulAlgo_t& algorithm,
                               const Operands& operands, cudaStream_t stream) {
  if (key.bias) {
    const cublasStatus_t status = Set(product_, CUBLASLT_MATMUL_DESC_BIAS_POINTER, operands.bias);
    if (status != CUBLAS_STATUS_SUCCESS) return status;
  }
  const float alpha = 1, beta = key.accumulate ? 1 : 0;
  return cublasLtMatmul(handle, product_, &alpha, operands.b, first_, operands.a, second_, &beta,
                        operands.c, result_, operands.c, result_, &algorithm, operands.workspace,
                        static_cast<size_t>(kWorkspaceBytes), stream);
}

absl::StatusOr<std::vector<cublasLtMatmulAlgo_t>> MatmulPlan::Propose(cublasLtHandle_t handle,
                                                                      int count) {
  cublasLtMatmulPreference_t preference = nullptr;
  RETURN_IF_ERROR(ToStatus(cublasLtMatmulPreferenceCreate(&preference), "cuBLASLt preference"));
  const auto set = [&](cublasLtMatmulPreferenceAttributes_t attribute, const auto& value) {
    cublasLtMatmulPreferenceSetAttribute(preference, attribute, &value, sizeof(value));
  };
  const auto alignment = [](int bytes) { return static_cast<uint32_t>(bytes); };
  set(CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, static_cast<uint64_t>(kWorkspaceBytes));
  set(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, alignment(key.b_alignment));
  set(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES, alignment(key.a_alignment));
  set(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, alignment(key.c_alignment));
  set(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES, alignment(key.c_alignment));
  std::vector<cublasLtMatmulHeuristicResult_t> found(static_cast<size_t>(count));
  int num_found = 0;
  const cublasStatus_t status =
      cublasLtMatmulAlgoGetHeuristic(handle, product_, first_, second_, result_, result_,
                                     preference, count, found.data(), &num_found);
  cublasLtMatmulPreferenceDestroy(preference);
  RETURN_IF_ERROR(ToStatus(status, "asking cuBLASLt for algorithms of " + key.ToString()));
  std::vector<cublasLtMatmulAlgo_t> algorithms;
  for (int i = 0; i < num_found; ++i) {
    const auto& result = found[static_cast<size_t>(i)];
    if (result.state == CUBLAS_STATUS_SUCCESS) algorithms.push_back(result.algo);
  }
  if (algorithms.empty()) {
    return absl::UnimplementedError("cuBLASLt has no algorithm for matmul " + key.ToString());
  }
  return algorithms;
}

bool MatmulPlan::Accepts(cublasLtHandle_t handle, const cublasLtMatmulAlgo_t& algorithm) {
  cublasLtMatmulHeuristicResult_t result;
  return cublasLtMatmulAlgoCheck(handle, product_, first_, second_, result_, result_, &algorithm,
                                 &result) == CUBLAS_STATUS_SUCCESS &&
         result.workspaceSize <= static_cast<size_t>(kWorkspaceBytes);
}

MatmulPlans::MatmulPlans(const MatmulTuning& tuning, Device device)
    : tuning_(tuning), cache_(tuning.cache_path, ProductName(device)) {}

absl::StatusOr<std::unique_ptr<MatmulPlans>> MatmulPlans::Create(Device device,
                                                                 const MatmulTuning& tuning) {
  std::unique_ptr<MatmulPlans> plans(new MatmulPlans(tuning, device));
  RETURN_IF_ERROR(ToStatus(cublasLtCreate(&plans->handle_), "cublasLtCreate"));
  return plans;
}

MatmulPlans::~MatmulPlans() {
  if (handle_ != nullptr) cublasLtDestroy(handle_);
}

absl::StatusOr<MatmulPlan*> MatmulPlans::Get(const MatmulKey& key,
                                             const MatmulPlan::Operands& operands,
                                             StreamView stream) {
  if (const auto found = plans_.find(key); found != plans_.end()) return found->second.get();
  ASSIGN_OR_RETURN(std::unique_ptr<MatmulPlan> plan, MatmulPlan::Create(key, operands.bias));
  ASSIGN_OR_RETURN(plan->algorithm, Choose(*plan, operands, stream));
  return plans_.emplace(key, std::move(plan)).first->second.get();
}

absl::StatusOr<cublasLtMatmulAlgo_t> MatmulPlans::Choose(MatmulPlan& plan,
                                                         const MatmulPlan::Operands& operands,
                                                         StreamView stream) {
  const MatmulKey& key = plan.key;
  const double flops =
      2.0 * static_cast<double>(key.m) * static_cast<double>(key.n) * static_cast<double>(key.k);
  if (!tuning_.search || flops < kMinSearchedFlops) {
    ASSIGN_OR_RETURN(const auto algorithms, plan.Propose(handle_, 1));
    return algorithms[0];
  }
  if (const auto known = cache_.Find(key)) {
    if (plan.Accepts(handle_, *known)) return *known;
    Log(Severity::kWarning, "the matmul cache's algorithm for " + key.ToString() +
                                " is not accepted by cuBLASLt; searching again");
  }
  ASSIGN_OR_RETURN(const auto algorithm, SearchAlgorithm(handle_, plan, operands, stream));
  cache_.Add(key, algorithm);
  return algorithm;
}

}  // namespace muster::kernels::cuda
