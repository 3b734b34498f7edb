#pragma once
// What the CUDA operators keep with a stream: scratch memory, and the handles and plans of the
// libraries behind matrix products and attention. Operators of one stream run in order, so they
// share one workspace; its content does not outlive an operator.
#include <cstdint>
#include <memory>

#include "absl/status/statusor.h"
#include "kernels/device/memory.h"
#include "kernels/device/stream.h"

namespace muster::kernels::cuda {

constexpr int64_t kWorkspaceBytes = int64_t{64} << 20;

struct CudaContext final : StreamContext {
  DeviceBuffer workspace;  // kWorkspaceBytes
  // The next two are made, and known in full, by the operators' own files.
  std::unique_ptr<StreamContext> matmul, attention;

  // The stream's context, made at the first call. Errors: no memory for the workspace.
  static absl::StatusOr<CudaContext*> Of(StreamView stream);
};

}  // namespace muster::kernels::cuda
