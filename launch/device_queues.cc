#include "launch/device_queues.h"

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"

namespace muster::launch {

absl::Status CheckDeviceQueues(const runtime::ResolvedJob& job, const Environment& environment) {
  constexpr char kVariable[] = "CUDA_DEVICE_MAX_CONNECTIONS";
  const auto found = environment.find(kVariable);
  if (job.job.device() != runtime::CUDA || job.mesh.pp == 1 || found == environment.end()) {
    return absl::OkStatus();
  }
  int queues = 0;
  if (absl::SimpleAtoi(found->second, &queues) && queues >= kLeastDeviceQueues) {
    return absl::OkStatus();
  }
  return absl::FailedPreconditionError(absl::StrCat(
      kVariable, "=", found->second, " is set, but a pipeline on GPUs (mesh.pp is ", job.mesh.pp,
      ") wants at least ", kLeastDeviceQueues,
      ": streams that share a hardware queue hold each other up, and a receive that waits would "
      "hold up the compute that the other stage waits for; unset it, and Muster takes 32"));
}

}  // namespace muster::launch
