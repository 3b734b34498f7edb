#pragma once
// Carries out this rank's planned faults (runtime/job/fault_plan.h). A fault happens once in a run,
// also over restarts: before it does, it leaves <run>/faults/fired-<index>, created exclusively,
// and a line in the rank's log.
#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "kernels/device/stream.h"
#include "parallel/comm/collective_log.h"
#include "parallel/dp/grad_bucket.h"
#include "runtime/fault/changed_tensor.h"
#include "runtime/job/fault_plan.h"

namespace muster::runtime {

class FaultInjector {
 public:
  struct Options {
    std::string run_directory;
    std::vector<std::string> plans;  // valid ones
    int rank = 0, num_ranks = 1;
    parallel::CollectiveLog* log = nullptr;  // outlives the injector
    RankTensors tensors;
    kernels::StreamView compute;
  };
  // Errors: the directory of marks cannot be made; a tensor that this rank does not hold.
  static absl::StatusOr<std::unique_ptr<FaultInjector>> Create(Options options);

  // Everything that is due on this rank. `step` is the update's number.
  absl::Status At(Instant instant, int64_t step);
  // Before each forward and backward of step `step`: 0, or more where they are run again.
  void BeginPass(int64_t step, int pass);
  // Before the last backward of a pass; and before the gradients of a bucket, which are there, are
  // reduced.
  absl::Status AtActivations();
  absl::Status AtGradients(const std::vector<parallel::BucketSlice>& slices);
  // For saves: the error that a disk call returns in its own place, after what a slow disk takes
  // for it. Any thread.
  absl::Status AtDiskCall(SaveTier tier, const std::string& call, const std::string& path);
  bool idle() const { return faults_.empty(); }

 private:
  struct Fault {
    int index = 0;
    PlannedFault plan;
    bool done = false, active = false;  // active: it goes on, for some steps or passes
    int last_pass = -1;
    int64_t begun = 0;  // the step in which it was marked
    int64_t disk_calls = 0;
  };
  explicit FaultInjector(Options options) : options_(std::move(options)) {}
  bool LastsNow(Fault& fault, int64_t step);
  bool Mark(Fault& fault, int64_t step);
  bool IsDue(const PlannedFault& plan, Instant instant, int64_t step) const;
  absl::Status Fire(Fault& fault, int64_t step);
  // Whether the fault, of a kind that happens in passes, is to happen in this one.
  bool IsDueInPass(Fault& fault);
  void SlowDown(Fault& fault, Instant instant, int64_t step);

  const Options options_;
  std::mutex mutex_;  // guards faults_: disk calls come from writer threads
  std::vector<Fault> faults_;
  std::atomic<int64_t> step_{0};
  int pass_ = 0;
  int64_t last_instant_ns_ = 0;
};

}  // namespace muster::runtime
