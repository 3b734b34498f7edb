#pragma once
// Attention through cuDNN's fused kernels: bf16, the head sizes of kernels/ops/attention_support.h,
// rows of whole 16 bytes, and the masks that cuDNN has (none, causal from the first key, causal up
// to the last key). A stream keeps one plan per shape, made at its first use, which takes the host
// some tenths of a second, and workspace that grows to the largest plan's; a step after that
// allocates nothing. A deterministic backward keeps all scores in it, in bf16: 2 B H Sq Sk bytes.
#include <map>
#include <memory>
#include <vector>

#include "absl/status/statusor.h"
#include "kernels/device/memory.h"
#include "kernels/device/stream.h"
#include "kernels/ops/attention.h"

namespace muster::kernels::cuda {

class CudnnAttention final : public StreamContext {
 public:
  static absl::StatusOr<std::unique_ptr<CudnnAttention>> Create(StreamView stream);
  ~CudnnAttention() override;
  // Reads the library, so that Create need not. Uses the calling thread's current device.
  static void Load();

  // Enqueue. Errors: Unimplemented and why, if cuDNN has no kernel for these arguments, which have
  // queries and keys; no memory; a failed launch.
  absl::Status Forward(const AttentionForwardArgs& args);
  absl::Status Backward(const AttentionBackwardArgs& args);
  int64_t num_runs() const { return num_runs_; }  // calls that were enqueued

 private:
  struct Plan;
  using Key = std::vector<int64_t>;  // everything a plan depends on
  CudnnAttention();
  template <typename Args, typename Build>
  absl::StatusOr<Plan*> GetPlan(const Args& args, const Key& key, Build&& build);
  template <typename Pointers>
  absl::Status Run(Plan& plan, Pointers& pointers);

  void* handle_ = nullptr;  // cudnnHandle_t
  Device device_;
  DeviceBuffer workspace_;
  std::map<Key, std::unique_ptr<Plan>> plans_;
  int64_t num_runs_ = 0;
};

}  // namespace muster::kernels::cuda
