#include "kernels/ops/cuda/matmul_plan.h"

#include <cublasLt.h>
#include <cuda_runtime.h>

#include <algorithm>
#include <bit>
#include <cstdlib>
#include <string_view>
#include <vector>

#include "kernels/base/error.h"
#include "kernels/base/log.h"
#include "kernels/ops/cuda/context.h"

namespace muster::kernels::cuda {
namespace {

cudaDataType_t LibraryType(DType dtype) {
  return dtype == DType::kBFloat16 ? CUDA_R_16BF : CUDA_R_32F;
}

template <typename T>
cublasStatus_t Set(cublasLtMatmulDesc_t product, cublasLtMatmulDescAttributes_t attribute,
                   const T& value) {
  return cublasLtMatmulDescSetAttribute(product, attribute, &value, sizeof(value));
}

absl::Status ToStatus(cublasStatus_t status, const std::string& what) {
  if (status == CUBLAS_STATUS_SUCCESS) return absl::OkStatus();
  return LibraryError(what + ": " + cublasLtGetStatusString(status));
}

// Of sums that are cut; an algorithm that cuts none has scheme NONE, which is no bit.
constexpr uint32_t kReductionSchemes = CUBLASLT_REDUCTION_SCHEME_COMPUTE_TYPE;

bool HasAllowedScheme(const cublasLtMatmulAlgo_t& algorithm) {
  uint32_t scheme = 0;
  size_t written = 0;
  return cublasLtMatmulAlgoConfigGetAttribute(&algorithm, CUBLASLT_ALGO_CONFIG_REDUCTION_SCHEME,
                                              &scheme, sizeof(scheme),
                                              &written) == CUBLAS_STATUS_SUCCESS &&
         (scheme & ~kReductionSchemes) == 0;
}

}  // namespace

bool SearchesMatmuls() {
  const char* search = std::getenv("MUSTER_MATMUL_SEARCH");
  return search == nullptr || std::string_view(search) != "0";
}

// The product, and b^T, a^T and c^T as the library sees them.
struct MatmulPlan::Descriptors {
  cublasLtMatmulDesc_t product = nullptr;
  cublasLtMatrixLayout_t first = nullptr, second = nullptr, result = nullptr;

  ~Descriptors() {
    for (cublasLtMatrixLayout_t layout : {first, second, result}) {
      if (layout != nullptr) cublasLtMatrixLayoutDestroy(layout);
    }
    if (product != nullptr) cublasLtMatmulDescDestroy(product);
  }
};

MatmulPlan::MatmulPlan(const MatmulKey& key)
    : key(key), descriptors_(std::make_unique<Descriptors>()) {}
MatmulPlan::~MatmulPlan() = default;

absl::StatusOr<std::unique_ptr<MatmulPlan>> MatmulPlan::Create(const MatmulKey& key,
                                                               const void* bias) {
  std::unique_ptr<MatmulPlan> plan(new MatmulPlan(key));
  Descriptors& d = *plan->descriptors_;
  const cudaDataType_t storage = LibraryType(key.storage), result = LibraryType(key.result);
  const auto extent = [](int64_t value) { return static_cast<uint64_t>(value); };
  const std::string what = "describing matmul " + key.ToString() + " to cuBLASLt";
  RETURN_IF_ERROR(
      ToStatus(cublasLtMatmulDescCreate(&d.product, CUBLAS_COMPUTE_32F, CUDA_R_32F), what));
  RETURN_IF_ERROR(ToStatus(
      Set(d.product, CUBLASLT_MATMUL_DESC_TRANSA, key.b_transposed ? CUBLAS_OP_T : CUBLAS_OP_N),
      what));
  RETURN_IF_ERROR(ToStatus(
      Set(d.product, CUBLASLT_MATMUL_DESC_TRANSB, key.a_transposed ? CUBLAS_OP_T : CUBLAS_OP_N),
      what));
  if (key.bias) {
    RETURN_IF_ERROR(
        ToStatus(Set(d.product, CUBLASLT_MATMUL_DESC_EPILOGUE, CUBLASLT_EPILOGUE_BIAS), what));
    RETURN_IF_ERROR(ToStatus(Set(d.product, CUBLASLT_MATMUL_DESC_BIAS_DATA_TYPE, result), what));
    RETURN_IF_ERROR(ToStatus(Set(d.product, CUBLASLT_MATMUL_DESC_BIAS_POINTER, bias), what));
  }
  // As stored: the rows of a column-major matrix are the columns of ours.
  RETURN_IF_ERROR(ToStatus(
      cublasLtMatrixLayoutCreate(&d.first, storage, extent(key.b_transposed ? key.k : key.n),
                                 extent(key.b_transposed ? key.n : key.k), key.b_stride),
      what));
  RETURN_IF_ERROR(ToStatus(
      cublasLtMatrixLayoutCreate(&d.second, storage, extent(key.a_transposed ? key.m : key.k),
                                 extent(key.a_transposed ? key.k : key.m), key.a_stride),
      what));
  RETURN_IF_ERROR(ToStatus(
      cublasLtMatrixLayoutCreate(&d.result, result, extent(key.n), extent(key.m), key.c_stride),
      what));
  return plan;
}

absl::Status MatmulPlan::Run(cublasLtContext* handle, const MatmulAlgorithm& chosen,
                             const Operands& operands, StreamView stream) {
  Descriptors& d = *descriptors_;
  if (key.bias) {
    RETURN_IF_ERROR(ToStatus(Set(d.product, CUBLASLT_MATMUL_DESC_BIAS_POINTER, operands.bias),
                             "cuBLASLt's bias"));
  }
  const float alpha = 1, beta = key.accumulate ? 1 : 0;
  const auto library_algorithm = std::bit_cast<cublasLtMatmulAlgo_t>(chosen);
  const Workspace workspace = stream.workspace();
  const cublasStatus_t status = cublasLtMatmul(
      handle, d.product, &alpha, operands.b, d.first, operands.a, d.second, &beta, operands.c,
      d.result, operands.c, d.result, &library_algorithm, workspace.data,
      static_cast<size_t>(workspace.bytes), static_cast<cudaStream_t>(stream.native_handle()));
  if (status == CUBLAS_STATUS_SUCCESS) return absl::OkStatus();
  return ToStatus(status, "cublasLtMatmul of " + key.ToString());
}

absl::StatusOr<std::vector<MatmulAlgorithm>> MatmulPlan::Propose(cublasLtContext* handle,
                                                                 int count) {
  const Descriptors& d = *descriptors_;
  cublasLtMatmulPreference_t preference = nullptr;
  RETURN_IF_ERROR(ToStatus(cublasLtMatmulPreferenceCreate(&preference), "cuBLASLt preference"));
  const auto set = [&](cublasLtMatmulPreferenceAttributes_t attribute, const auto& value) {
    cublasLtMatmulPreferenceSetAttribute(preference, attribute, &value, sizeof(value));
  };
  const auto alignment = [](int bytes) { return static_cast<uint32_t>(bytes); };
  set(CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, static_cast<uint64_t>(kStreamWorkspaceBytes));
  set(CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK, kReductionSchemes);
  set(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, alignment(key.b_alignment));
  set(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES, alignment(key.a_alignment));
  set(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, alignment(key.c_alignment));
  set(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES, alignment(key.c_alignment));
  std::vector<cublasLtMatmulHeuristicResult_t> found(static_cast<size_t>(count));
  int num_found = 0;
  const cublasStatus_t status =
      cublasLtMatmulAlgoGetHeuristic(handle, d.product, d.first, d.second, d.result, d.result,
                                     preference, count, found.data(), &num_found);
  cublasLtMatmulPreferenceDestroy(preference);
  RETURN_IF_ERROR(ToStatus(status, "asking cuBLASLt for algorithms of " + key.ToString()));
  std::vector<MatmulAlgorithm> algorithms;
  for (int i = 0; i < num_found; ++i) {
    const auto& result = found[static_cast<size_t>(i)];
    if (result.state == CUBLAS_STATUS_SUCCESS && HasAllowedScheme(result.algo)) {
      algorithms.push_back(std::bit_cast<MatmulAlgorithm>(result.algo));
    }
  }
  if (algorithms.empty()) {
    return absl::UnimplementedError("cuBLASLt has no algorithm for matmul " + key.ToString());
  }
  return algorithms;
}

bool MatmulPlan::Accepts(cublasLtContext* handle, const MatmulAlgorithm& candidate) {
  const Descriptors& d = *descriptors_;
  const auto library_algorithm = std::bit_cast<cublasLtMatmulAlgo_t>(candidate);
  cublasLtMatmulHeuristicResult_t result;
  return HasAllowedScheme(library_algorithm) &&
         cublasLtMatmulAlgoCheck(handle, d.product, d.first, d.second, d.result, d.result,
                                 &library_algorithm, &result) == CUBLAS_STATUS_SUCCESS &&
         result.workspaceSize <= static_cast<size_t>(kStreamWorkspaceBytes);
}

absl::StatusOr<MatmulPlans*> MatmulPlans::Of(StreamView stream) {
  CudaContext& context = CudaContext::Of(stream);
  if (context.matmul == nullptr) {
    ASSIGN_OR_RETURN(context.matmul, MatmulPlans::Create(SearchesMatmuls()));
  }
  return static_cast<MatmulPlans*>(context.matmul.get());
}

absl::StatusOr<std::unique_ptr<MatmulPlans>> MatmulPlans::Create(bool search) {
  std::unique_ptr<MatmulPlans> plans(new MatmulPlans(search));
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

void MatmulPlans::Use(const std::map<MatmulKey, MatmulAlgorithm>& chosen) { chosen_ = chosen; }

absl::StatusOr<MatmulAlgorithm> MatmulPlans::Choose(MatmulPlan& plan,
                                                    const MatmulPlan::Operands& operands,
                                                    StreamView stream) {
  if (!search_ || !IsSearched(plan.key)) {
    ASSIGN_OR_RETURN(const auto algorithms, plan.Propose(handle_, 1));
    return algorithms[0];
  }
  if (const auto chosen = chosen_.find(plan.key); chosen != chosen_.end()) return chosen->second;
  if (!chosen_.empty()) {
    Log(Severity::kWarning, "matmul " + plan.key.ToString() +
                                " was not foreseen at the start: this rank chooses its algorithm "
                                "now and alone, and a restart may choose another");
  }
  return SearchNow(plan, operands, stream);
}

absl::StatusOr<MatmulAlgorithm> MatmulPlans::SearchNow(MatmulPlan& plan,
                                                       const MatmulPlan::Operands& operands,
                                                       StreamView stream) {
  cudaStreamCaptureStatus capture = cudaStreamCaptureStatusNone;
  cudaStreamIsCapturing(static_cast<cudaStream_t>(stream.native_handle()), &capture);
  if (capture != cudaStreamCaptureStatusNone) {
    return FirstProposal(handle_, plan, "its stream is being captured");
  }
  const int64_t flush_bytes = FlushBytes(stream.device());
  absl::StatusOr<DeviceBuffer> memory =
      TakeForSearch(stream.device(), plan.key.c_bytes() + kMemoryAlignment + flush_bytes);
  if (!memory.ok()) return FirstProposal(handle_, plan, std::string(memory.status().message()));
  const SearchScratch scratch = {.result = static_cast<char*>(memory->data()) + flush_bytes,
                                 .flush = memory->data()};
  return SearchAlgorithm(handle_, plan, operands, scratch, stream);
}

}  // namespace muster::kernels::cuda
