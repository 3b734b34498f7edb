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
#include "parallel/mesh/parameter.h"
#include "parallel/optim/sharded_adamw.h"
#include "runtime/job/fault_plan.h"

namespace muster::runtime {

class FaultInjector {
 public:
  struct Options {
    std::string run_directory;
    std::vector<std::string> plans;  // valid ones
    int rank = 0;
    parallel::CollectiveLog* log = nullptr;
    const parallel::ParameterList* parameters = nullptr;  // all outlive the injector
    const parallel::ShardedAdamW* optimizer = nullptr;
    kernels::StreamView compute;
  };
  // Errors: the directory of marks cannot be made; a tensor that this rank does not hold.
  static absl::StatusOr<std::unique_ptr<FaultInjector>> Create(Options options);

  // Everything that is due on this rank. `step` is the update's number.
  absl::Status At(Instant instant, int64_t step);
  // For the disk of checkpoints: the error that a call returns in its own place, after what a slow
  // disk takes for it. Any thread.
  absl::Status AtDiskCall(const std::string& call, const std::string& path);
  bool idle() const { return faults_.empty(); }

 private:
  struct Fault {
    int index = 0;
    PlannedFault plan;
    bool done = false, active = false;  // active: slow ones
    int64_t disk_calls = 0;
  };
  explicit FaultInjector(Options options) : options_(std::move(options)) {}
  bool Mark(Fault& fault, int64_t step);
  absl::Status Fire(Fault& fault, int64_t step);
  bool Holds(const PlannedFault& plan) const;
  kernels::TensorView Find(const PlannedFault& plan) const;
  absl::Status ChangeTensor(const PlannedFault& plan);
  void SlowDown(Fault& fault, Instant instant, int64_t step);
  double DiskDelay(Fault& fault, int64_t step);

  const Options options_;
  std::mutex mutex_;  // guards faults_: disk calls come from writer threads
  std::vector<Fault> faults_;
  std::atomic<int64_t> step_{0};
  int64_t last_instant_ns_ = 0;
};

}  // namespace muster::runtime
