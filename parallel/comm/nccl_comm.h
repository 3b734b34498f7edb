#pragma once
// One NCCL communicator, non-blocking: NCCL's calls return at once, perhaps "in progress", and
// whoever made one polls under a deadline until it is made. Aborting happens on a thread of its
// own: it may have to wait for the device, which may wait for another communicator's abort.
//
// Not thread-safe: who shares one, locks. NCCL's codes appear as int, its communicator as an opaque
// pointer, so that nccl.h stays out of headers.
#include <chrono>
#include <future>
#include <memory>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "kernels/device/device.h"
#include "parallel/comm/rendezvous.h"

struct ncclComm;

namespace muster::parallel {

class NcclComm {
 public:
  struct Options {
    std::string unique_id;  // of NewUniqueId, made on one of the ranks
    std::string name;       // of the group: in NCCL's own messages
    int rank = 0, size = 0;
    kernels::Device device;
    NcclOptions config;  // overlapped_max_ctas and sums_in_rank_order are not NCCL's
    std::chrono::milliseconds deadline{0};  // of Settle
  };

  // Before any other call to NCCL in the process. Turns NVLink multicast off for NCCL, or on for
  // `nvls`: a process that ends badly while using it can take the host's GPUs with it. Errors: the
  // environment asks for the opposite; the loaded library is of another version than the header
  // this was built with.
  static absl::Status Prepare(bool nvls);
  static absl::StatusOr<std::string> NewUniqueId();
  // All ranks call it, each for its own device, which becomes the thread's current one.
  static absl::StatusOr<std::unique_ptr<NcclComm>> Create(const Options& options);
  // Ends what is under way if it does so within the deadline, else aborts.
  ~NcclComm();
  NcclComm(const NcclComm&) = delete;
  NcclComm& operator=(const NcclComm&) = delete;

  ncclComm* get() const { return comm_; }  // null once aborted
  // Calls get this long from now on: opening connections takes longer than later calls may.
  void set_deadline(std::chrono::milliseconds deadline) { options_.deadline = deadline; }
  // Until the call whose code is `result` has been made. Errors: DeadlineExceeded; NCCL's, in its
  // own words.
  absl::Status Settle(int result);
  // What went wrong since, on this rank's device or its connections.
  absl::Status AsyncError();
  // Stops the kernels of all calls under way, on this rank, and gives the communicator up.
  void Abort();

 private:
  explicit NcclComm(const Options& options) : options_(options) {}
  absl::Status ToStatus(int result) const;

  Options options_;
  ncclComm* comm_ = nullptr;
  std::future<void> aborted_;
};

}  // namespace muster::parallel
