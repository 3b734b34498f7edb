#include "parallel/comm/nccl_comm.h"

#include <nccl.h>
#include <sched.h>

#include <cstdlib>
#include <cstring>
#include <thread>
#include <utility>

#include "kernels/base/error.h"
#include "kernels/base/log.h"
#include "kernels/device/cuda_runtime.h"

namespace muster::parallel {
namespace {

using Clock = std::chrono::steady_clock;

constexpr char kMulticast[] = "NCCL_NVLS_ENABLE";
constexpr std::chrono::seconds kAbortPatience{10};

std::string VersionName(int version) {
  return std::to_string(version / 10'000) + "." + std::to_string(version / 100 % 100) + "." +
         std::to_string(version % 100);
}

absl::Status FromCode(int result, const std::string& words) {
  if (result == ncclSuccess) return absl::OkStatus();
  const std::string message = std::string("NCCL: ") +
                              ncclGetErrorString(static_cast<ncclResult_t>(result)) +
                              (words.empty() ? "" : " (" + words + ")");
  switch (result) {
    case ncclSystemError:
    case ncclRemoteError:
      return absl::UnavailableError(message);
    case ncclInvalidArgument:
    case ncclInvalidUsage:
      return absl::FailedPreconditionError(message);
    default:  // an error of CUDA's has its words
      return kernels::LibraryError(message);
  }
}

// A call is most often made after some tens of microseconds; opening connections takes longer.
class Pause {
 public:
  void operator()() {
    ++polls_;
    if (polls_ < 1000) {
      sched_yield();
    } else {
      std::this_thread::sleep_for(std::chrono::microseconds(50));
    }
  }

 private:
  int polls_ = 0;
};

}  // namespace

absl::Status NcclComm::Prepare(bool nvls) {
  const char* multicast = std::getenv(kMulticast);
  if (multicast == nullptr) {
    setenv(kMulticast, nvls ? "1" : "0", /*overwrite=*/0);
  } else if ((std::string(multicast) != "0") != nvls) {
    return absl::FailedPreconditionError(std::string(kMulticast) + "=" + multicast +
                                         " is set, but the job runs with" + (nvls ? "" : "out") +
                                         " NVLink multicast (communication.nccl.nvls); unset it");
  }
  int loaded = 0;
  RETURN_IF_ERROR(FromCode(ncclGetVersion(&loaded), "asked for its version"));
  if (loaded == NCCL_VERSION_CODE) return absl::OkStatus();
  return absl::FailedPreconditionError(
      "the NCCL library that was loaded is " + VersionName(loaded) +
      ", but this program was built with the header of " + VersionName(NCCL_VERSION_CODE) +
      "; put the directory of the matching libnccl.so.2 into LD_LIBRARY_PATH, or build again");
}

absl::StatusOr<std::string> NcclComm::NewUniqueId() {
  ncclUniqueId id;
  RETURN_IF_ERROR(FromCode(ncclGetUniqueId(&id), ncclGetLastError(nullptr)));
  return std::string(id.internal, sizeof(id.internal));
}

absl::StatusOr<std::unique_ptr<NcclComm>> NcclComm::Create(const Options& options) {
  ncclUniqueId id{};
  MUSTER_CHECK_EQ(options.unique_id.size(), sizeof(id.internal)) << "bytes of a NCCL id";
  std::memcpy(id.internal, options.unique_id.data(), sizeof(id.internal));
  kernels::cuda::MakeCurrent(options.device);
  std::unique_ptr<NcclComm> made(new NcclComm(options));
  ncclConfig_t config = NCCL_CONFIG_INITIALIZER;
  config.blocking = 0;
  config.commName = made->options_.name.c_str();
  const NcclOptions& wanted = options.config;
  if (wanted.max_ctas > 0) {
    config.minCTAs = 1;
    config.maxCTAs = wanted.max_ctas;
  }
  if (wanted.min_ctas > 0) config.minCTAs = wanted.min_ctas;
  if (wanted.cga_cluster_size > 0) config.cgaClusterSize = wanted.cga_cluster_size;
  if (wanted.cta_policy == NcclOptions::CtaPolicy::kEfficiency) {
    config.CTAPolicy = NCCL_CTA_POLICY_EFFICIENCY;
  }
  const int result = ncclCommInitRankConfig(&made->comm_, options.size, id, options.rank, &config);
  absl::Status status = made->Settle(result);
  if (status.ok()) return made;
  made->Abort();
  return kernels::Annotate(
      status, "making the NCCL communicator on " + kernels::Name(options.device) + " as rank " +
                  std::to_string(options.rank) + " of " + std::to_string(options.size));
}

NcclComm::~NcclComm() {
  if (comm_ != nullptr) {
    const absl::Status status = Settle(ncclCommFinalize(comm_));
    if (status.ok()) {
      ncclCommDestroy(std::exchange(comm_, nullptr));
    } else {
      kernels::Log(kernels::Severity::kWarning, "ending the NCCL communicator of group " +
                                                    options_.name + ": " + status.ToString());
      Abort();
    }
  }
  if (aborted_.valid() && aborted_.wait_for(kAbortPatience) != std::future_status::ready) {
    kernels::Log(kernels::Severity::kError, "aborting the NCCL communicator of group " +
                                                options_.name + " does not end; left behind");
  }
}

absl::Status NcclComm::Settle(int result) {
  if (result == ncclSuccess) return absl::OkStatus();
  const auto deadline = Clock::now() + options_.deadline;
  Pause pause;
  while (result == ncclInProgress) {
    if (Clock::now() > deadline) {
      return absl::DeadlineExceededError(
          "NCCL did not get the call made; it may wait for other ranks");
    }
    pause();
    ncclResult_t state = ncclInProgress;
    const ncclResult_t asked = ncclCommGetAsyncError(comm_, &state);
    result = asked == ncclSuccess ? state : asked;
  }
  return ToStatus(result);
}

absl::Status NcclComm::AsyncError() {
  ncclResult_t state = ncclSuccess;
  const ncclResult_t asked = ncclCommGetAsyncError(comm_, &state);
  if (asked != ncclSuccess) return ToStatus(asked);
  return state == ncclInProgress ? absl::OkStatus() : ToStatus(state);
}

void NcclComm::Abort() {
  if (comm_ == nullptr) return;
  ncclComm* comm = std::exchange(comm_, nullptr);
  // Touches nothing of this object: it may be left behind.
  std::packaged_task<void()> abort([comm, device = options_.device] {
    kernels::cuda::MakeCurrent(device);
    ncclCommAbort(comm);
  });
  aborted_ = abort.get_future();
  std::thread(std::move(abort)).detach();
}

absl::Status NcclComm::ToStatus(int result) const {
  return FromCode(result, result == ncclSuccess || comm_ == nullptr ? "" : ncclGetLastError(comm_));
}

}  // namespace muster::parallel
