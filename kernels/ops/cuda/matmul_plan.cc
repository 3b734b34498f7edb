#include "kernels/ops/cuda/matmul_plan.h"

#include <cublasLt.h>

#include <algorithm>
#include <bit>
#include <cstdlib>
#include <string_view>
#include <vector>

#include "absl/strings/str_cat.h"
#include "kernels/base/error.h"
#include "kernels/base/log.h"

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

absl::Status ToStatus(cublasStatus_t status, const std::string& what) {
  if (status == CUBLAS_STATUS_SUCCESS) return absl::OkStatus();
  return absl::InternalError(what + ": " + cublasLtGetStatusString(status));
}

}  // namespace

MatmulTuning MatmulTuning::FromEnvironment() {
  const char* search = std::getenv("MUSTER_MATMUL_SEARCH");
  return {.search = search == nullptr || std::string_view(search) != "0",
          .cache_path = MatmulCachePath(std::getenv("MUSTER_MATMUL_CACHE"),
                                        std::getenv("XDG_CACHE_HOME"), std::getenv("HOME"))};
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
    if (result.state == CUBLAS_STATUS_SUCCESS) {
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
  return cublasLtMatmulAlgoCheck(handle, d.product, d.first, d.second, d.result, d.result,
                                 &library_algorithm, &result) == CUBLAS_STATUS_SUCCESS &&
         result.workspaceSize <= static_cast<size_t>(kStreamWorkspaceBytes);
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

absl::StatusOr<MatmulAlgorithm> MatmulPlans::Choose(MatmulPlan& plan,
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
  const MatmulAlgorithm kept = cache_.Add(key, algorithm);
  return plan.Accepts(handle_, kept) ? kept : algorithm;
}

}  // namespace muster::kernels::cuda
