// The only file that includes cudnn-frontend: it takes minutes to compile.
#include "kernels/ops/cuda/attention_cudnn.h"

#include <cudnn_frontend.h>

#include <bit>
#include <exception>
#include <string>
#include <unordered_map>
#include <utility>

#include "absl/strings/str_cat.h"
#include "kernels/base/error.h"
#include "kernels/ops/attention_support.h"
#include "kernels/ops/cuda/attention_mask.h"

namespace muster::kernels::cuda {
namespace {

namespace fe = cudnn_frontend;
using fe::graph::Graph;
using TensorHandle = std::shared_ptr<fe::graph::Tensor_attributes>;

// Names of the graphs' tensors.
enum Uid : int64_t { kQ = 1, kK, kV, kOut, kLse, kDOut, kDQ, kDK, kDV };

absl::Status CudnnStatus(cudnnStatus_t status, const char* what) {
  if (status == CUDNN_STATUS_SUCCESS) return absl::OkStatus();
  return LibraryError(std::string(what) + ": " + cudnnGetErrorString(status));
}

// [B, S, heads, C] as cuDNN's order [B, heads, S, C].
std::vector<int64_t> DimsOf(const TensorView& x) {
  return {x.shape[0], x.shape[2], x.shape[1], x.shape[3]};
}
// A dim of one element leaves its stride open: it gets the one it would have if contiguous.
std::vector<int64_t> StridesOf(const TensorView& x) {
  const int64_t token = x.shape[1] > 1 ? x.strides[1] : x.shape[2] * x.shape[3];
  const int64_t batch = x.shape[0] > 1 ? x.strides[0] : token * x.shape[1];
  return {batch, x.shape[3], token, 1};
}

// cuDNN's kernels load 16 bytes at once.
bool IsAligned(const TensorView& x) {
  const std::vector<int64_t> strides = StridesOf(x);
  return reinterpret_cast<uintptr_t>(x.data) % 16 == 0 && strides[0] % 8 == 0 &&
         strides[1] % 8 == 0 && strides[2] % 8 == 0;
}

template <typename Args>
AttentionMask MaskOfArgs(const Args& args) {
  return MaskOf(args.causal, args.q_begin - args.k_begin, args.q.shape[1], args.k.shape[1]);
}

// Empty, or what speaks against asking cuDNN.
template <typename Args>
std::string Obstacle(const Args& args, std::initializer_list<const TensorView*> tensors) {
  const std::string heads =
      HeadSizeProblem(AttentionKernel::kCudnn, args.q.dtype, args.q.shape[3], args.v.shape[3]);
  if (!heads.empty()) return heads;
  if (MaskOfArgs(args) == AttentionMask::kOther) {
    return absl::StrCat("it has no causal mask for queries from position ", args.q_begin,
                        " on and keys from ", args.k_begin, " on");
  }
  for (const TensorView* x : tensors) {
    if (IsAligned(*x)) continue;
    return absl::StrCat("it wants addresses and strides of whole 16 bytes; found ", x->ToString(),
                        " at ", absl::Hex(reinterpret_cast<uintptr_t>(x->data)), " with strides ",
                        x->strides.ToString());
  }
  return "";
}

const char* PassOf(const AttentionForwardArgs&) { return "forward"; }
const char* PassOf(const AttentionBackwardArgs& args) {
  return args.deterministic ? "deterministic backward" : "backward";
}

template <typename Args>
absl::Status Refusal(const Args& args, const std::string& why) {
  const absl::Status failed = LibraryError("planning cuDNN attention: " + why);
  if (absl::IsResourceExhausted(failed)) return failed;
  const Shape &q = args.q.shape, &k = args.k.shape;
  return absl::UnimplementedError(absl::StrCat(
      "cuDNN ", LoadedCudnnVersion(), " has no kernel for attention's ", PassOf(args), " of b",
      q[0], " s", q[1], "/", k[1], " h", q[2], "/", k[2], " d", q[3], "/", args.v.shape[3],
      args.causal ? " causal" : "", ": ", why,
      "; precision.attention_kernel=DIRECT runs it without cuDNN, some hundred times slower"));
}

template <typename Args>
std::vector<int64_t> KeyOf(const Args& args, bool backward,
                           std::initializer_list<const TensorView*> tensors) {
  std::vector<int64_t> key = {backward,
                              static_cast<int64_t>(MaskOfArgs(args)),
                              std::bit_cast<int32_t>(args.scale),
                              args.k.shape[1],
                              args.k.shape[2],
                              args.v.shape[3]};
  for (int dim = 0; dim < 4; ++dim) key.push_back(args.q.shape[dim]);
  for (const TensorView* x : tensors) {
    for (int64_t stride : StridesOf(*x)) key.push_back(stride);
  }
  return key;
}

std::shared_ptr<Graph> NewGraph() {
  auto graph = std::make_shared<Graph>();
  graph->set_io_data_type(fe::DataType_t::BFLOAT16)
      .set_intermediate_data_type(fe::DataType_t::FLOAT)
      .set_compute_data_type(fe::DataType_t::FLOAT);
  return graph;
}

TensorHandle Input(Graph& graph, Uid uid, const TensorView& x) {
  return graph.tensor(
      fe::graph::Tensor_attributes().set_uid(uid).set_dim(DimsOf(x)).set_stride(StridesOf(x)));
}
void Output(const TensorHandle& tensor, Uid uid, const TensorView& x) {
  tensor->set_output(true).set_uid(uid).set_dim(DimsOf(x)).set_stride(StridesOf(x));
}
// lse [B, H, S] as [B, H, S, 1].
std::vector<int64_t> LseDims(const TensorView& lse) {
  return {lse.shape[0], lse.shape[1], lse.shape[2], 1};
}
std::vector<int64_t> LseStrides(const TensorView& lse) {
  return {lse.shape[1] * lse.shape[2], lse.shape[2], 1, 1};
}

template <typename Attributes>
void SetMask(Attributes& attributes, AttentionMask mask) {
  if (mask == AttentionMask::kFull) return;
  attributes
      .set_diagonal_alignment(mask == AttentionMask::kCausalFromFirst
                                  ? fe::DiagonalAlignment_t::TOP_LEFT
                                  : fe::DiagonalAlignment_t::BOTTOM_RIGHT)
      .set_diagonal_band_right_bound(0);
}

std::shared_ptr<Graph> ForwardGraph(const AttentionForwardArgs& args) {
  auto graph = NewGraph();
  auto attributes = fe::graph::SDPA_attributes()
                        .set_name("attention")
                        .set_generate_stats(true)
                        .set_attn_scale(args.scale);
  SetMask(attributes, MaskOfArgs(args));
  auto [out, lse] = graph->sdpa(Input(*graph, kQ, args.q), Input(*graph, kK, args.k),
                                Input(*graph, kV, args.v), attributes);
  Output(out, kOut, args.out);
  lse->set_output(true)
      .set_uid(kLse)
      .set_data_type(fe::DataType_t::FLOAT)
      .set_dim(LseDims(args.lse))
      .set_stride(LseStrides(args.lse));
  return graph;
}

std::shared_ptr<Graph> BackwardGraph(const AttentionBackwardArgs& args) {
  auto graph = NewGraph();
  auto attributes = fe::graph::SDPA_backward_attributes()
                        .set_name("attention_backward")
                        .set_attn_scale(args.scale)
                        .set_deterministic_algorithm(args.deterministic);
  SetMask(attributes, MaskOfArgs(args));
  const TensorHandle lse = graph->tensor(fe::graph::Tensor_attributes()
                                             .set_uid(kLse)
                                             .set_data_type(fe::DataType_t::FLOAT)
                                             .set_dim(LseDims(args.lse))
                                             .set_stride(LseStrides(args.lse)));
  auto [d_q, d_k, d_v] = graph->sdpa_backward(
      Input(*graph, kQ, args.q), Input(*graph, kK, args.k), Input(*graph, kV, args.v),
      Input(*graph, kOut, args.out), Input(*graph, kDOut, args.d_out), lse, attributes);
  Output(d_q, kDQ, args.d_q);
  Output(d_k, kDK, args.d_k);
  Output(d_v, kDV, args.d_v);
  return graph;
}

}  // namespace

std::string LoadedCudnnVersion() {
  const auto text = [](size_t version) {
    return absl::StrCat(version / 10000, ".", version / 100 % 100, ".", version % 100);
  };
  const std::string loaded = text(cudnnGetVersion());
  return cudnnGetVersion() == CUDNN_VERSION
             ? loaded
             : absl::StrCat(loaded, " (compiled with ", text(CUDNN_VERSION), ")");
}

struct CudnnAttention::Plan {
  std::shared_ptr<Graph> graph;  // shared by cudnn-frontend's own design
  int64_t workspace_bytes = 0;
};

CudnnAttention::CudnnAttention() = default;

absl::StatusOr<std::unique_ptr<CudnnAttention>> CudnnAttention::Create(StreamView stream) {
  std::unique_ptr<CudnnAttention> attention(new CudnnAttention);
  cudnnHandle_t handle = nullptr;
  RETURN_IF_ERROR(CudnnStatus(cudnnCreate(&handle), "cudnnCreate"));
  attention->handle_ = handle;
  attention->device_ = stream.device();
  RETURN_IF_ERROR(CudnnStatus(
      cudnnSetStream(handle, static_cast<cudaStream_t>(stream.native_handle())), "cudnnSetStream"));
  return attention;
}

void CudnnAttention::Load() {
  cudnnHandle_t handle = nullptr;
  if (cudnnCreate(&handle) == CUDNN_STATUS_SUCCESS) cudnnDestroy(handle);
}

CudnnAttention::~CudnnAttention() {
  plans_.clear();
  if (handle_ != nullptr) cudnnDestroy(static_cast<cudnnHandle_t>(handle_));
}

template <typename Args, typename Build>
absl::StatusOr<CudnnAttention::Plan*> CudnnAttention::GetPlan(const Args& args, const Key& key,
                                                              Build&& build) {
  if (const auto found = plans_.find(key); found != plans_.end()) return found->second.get();
  auto plan = std::make_unique<Plan>();
  try {
    plan->graph = build();
    fe::error_t error = plan->graph->build(static_cast<cudnnHandle_t>(handle_),
                                           {fe::HeurMode_t::A, fe::HeurMode_t::FALLBACK});
    if (error.is_bad()) return Refusal(args, error.get_message());
    plan->workspace_bytes = plan->graph->get_workspace_size();
  } catch (const std::exception& exception) {
    return Refusal(args, exception.what());
  }
  if (plan->workspace_bytes > workspace_.bytes()) {
    workspace_ = DeviceBuffer();  // waits for the kernels that use it
    ASSIGN_OR_RETURN(workspace_, DeviceBuffer::Allocate(device_, plan->workspace_bytes));
  }
  return plans_.emplace(key, std::move(plan)).first->second.get();
}

template <typename Pointers>
absl::Status CudnnAttention::Run(Plan& plan, Pointers& pointers) {
  try {
    fe::error_t error =
        plan.graph->execute(static_cast<cudnnHandle_t>(handle_), pointers, workspace_.data());
    if (error.is_bad()) return LibraryError("cuDNN attention: " + error.get_message());
  } catch (const std::exception& exception) {
    return LibraryError(std::string("cuDNN attention: ") + exception.what());
  }
  ++num_runs_;
  return absl::OkStatus();
}

absl::Status CudnnAttention::Forward(const AttentionForwardArgs& args) {
  const auto tensors = {&args.q, &args.k, &args.v, &args.out};
  if (const std::string why = Obstacle(args, tensors); !why.empty()) return Refusal(args, why);
  ASSIGN_OR_RETURN(Plan* const plan, GetPlan(args, KeyOf(args, /*backward=*/false, tensors),
                                             [&] { return ForwardGraph(args); }));
  std::unordered_map<int64_t, void*> pointers = {{kQ, args.q.data},
                                                 {kK, args.k.data},
                                                 {kV, args.v.data},
                                                 {kOut, args.out.data},
                                                 {kLse, args.lse.data}};
  return Run(*plan, pointers);
}

absl::Status CudnnAttention::Backward(const AttentionBackwardArgs& args) {
  const auto tensors = {&args.q,     &args.k,   &args.v,   &args.out,
                        &args.d_out, &args.d_q, &args.d_k, &args.d_v};
  if (const std::string why = Obstacle(args, tensors); !why.empty()) return Refusal(args, why);
  Key key = KeyOf(args, /*backward=*/true, tensors);
  key.push_back(args.deterministic);
  ASSIGN_OR_RETURN(Plan* const plan, GetPlan(args, key, [&] { return BackwardGraph(args); }));
  std::unordered_map<int64_t, void*> pointers = {
      {kQ, args.q.data},     {kK, args.k.data},     {kV, args.v.data},
      {kOut, args.out.data}, {kLse, args.lse.data}, {kDOut, args.d_out.data},
      {kDQ, args.d_q.data},  {kDK, args.d_k.data},  {kDV, args.d_v.data}};
  return Run(*plan, pointers);
}

}  // namespace muster::kernels::cuda
