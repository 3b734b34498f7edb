#pragma once
// Attention through cuDNN's fused kernels: bf16, head sizes that are multiples of 8, and the masks
// that cuDNN has (none, causal from the first key, causal up to the last key). A stream keeps one
// plan per shape, made at its first use, which takes the host some tenths of a second, and
// workspace that grows to the largest plan's; a step after that allocates nothing.
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

  // Enqueue, and return true; or return false if cuDNN has no kernel for these arguments.
  absl::StatusOr<bool> Forward(const AttentionForwardArgs& args);
  absl::StatusOr<bool> Backward(const AttentionBackwardArgs& args);

 private:
  struct Plan;
  using Key = std::vector<int64_t>;  // everything a plan depends on
  CudnnAttention();
  template <typename Build>
  absl::StatusOr<Plan*> GetPlan(const Key& key, Build&& build);
  template <typename Pointers>
  absl::Status Run(Plan& plan, Pointers& pointers);

  void* handle_ = nullptr;  // cudnnHandle_t
  Device device_;
  DeviceBuffer workspace_;
  std::map<Key, std::unique_ptr<Plan>> plans_;
};

}  // namespace muster::kernels::cuda
