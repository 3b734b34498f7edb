#include "runtime/fault/injector.h"

#include <fcntl.h>
#include <signal.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdlib>
#include <filesystem>
#include <limits>
#include <thread>
#include <utility>

#include "absl/strings/str_cat.h"
#include "kernels/base/error.h"
#include "kernels/base/log.h"
#include "kernels/device/span.h"
#include "runtime/checkpoint/writer.h"
#include "runtime/fault/outside_faults.h"

namespace muster::runtime {
namespace {

void SleepFor(double seconds) {
  std::this_thread::sleep_for(std::chrono::duration<double>(seconds));
}

bool IsOfTheStart(FaultKind kind) {
  return kind == FaultKind::kConfig || kind == FaultKind::kBuild;
}

}  // namespace

absl::StatusOr<std::unique_ptr<FaultInjector>> FaultInjector::Create(Options options) {
  std::unique_ptr<FaultInjector> injector(new FaultInjector(std::move(options)));
  const Options& own = injector->options_;
  std::error_code error;
  if (!own.plans.empty()) {
    std::filesystem::create_directories(own.run_directory + "/faults", error);
    if (error) {
      return absl::UnavailableError("cannot make " + own.run_directory +
                                    "/faults: " + error.message());
    }
  }
  for (size_t i = 0; i < own.plans.size(); ++i) {
    std::vector<std::string> problems;
    Fault fault{.index = static_cast<int>(i), .plan = ParseFaultPlan(own.plans[i], 0, &problems)};
    MUSTER_CHECK(problems.empty()) << problems.front();
    if (fault.plan.rank != own.rank || IsOfTheStart(fault.plan.kind)) continue;
    const bool changes = fault.plan.kind == FaultKind::kFlip || HappensInPasses(fault.plan.kind);
    if (changes && !HasTarget(own.tensors, fault.plan)) {
      return absl::InvalidArgumentError(absl::StrCat("faults.plan \"", own.plans[i], "\": rank ",
                                                     own.rank, " holds nothing of tensor ",
                                                     fault.plan.tensor));
    }
    injector->faults_.push_back(std::move(fault));
  }
  injector->last_instant_ns_ = kernels::MonotonicNs();
  return injector;
}

// Whether this is the fault's first time in the run.
bool FaultInjector::Mark(Fault& fault, int64_t step) {
  fault.done = true;
  fault.begun = step;
  const std::string path = absl::StrCat(options_.run_directory, "/faults/fired-", fault.index);
  const int fd = open(path.c_str(), O_CREAT | O_EXCL | O_WRONLY | O_CLOEXEC, 0600);
  if (fd < 0) return false;
  const std::string text =
      absl::StrCat("step ", step, ": ", options_.plans[static_cast<size_t>(fault.index)], "\n");
  (void)!write(fd, text.data(), text.size());
  close(fd);
  kernels::Log(kernels::Severity::kWarning, "planned fault, " + text.substr(0, text.size() - 1));
  return true;
}

absl::Status FaultInjector::At(Instant instant, int64_t step) {
  if (faults_.empty()) return absl::OkStatus();
  step_ = step;
  std::lock_guard lock(mutex_);
  for (Fault& fault : faults_) {
    if (HappensInPasses(fault.plan.kind) || IsDiskFault(fault.plan.kind)) continue;
    if (fault.active) SlowDown(fault, instant, step);
    if (fault.done || !IsDue(fault.plan, instant, step) || !Mark(fault, step)) continue;
    RETURN_IF_ERROR(Fire(fault, step));
  }
  last_instant_ns_ = kernels::MonotonicNs();
  return absl::OkStatus();
}

// A checkpoint is damaged as soon as there is one.
bool FaultInjector::IsDue(const PlannedFault& plan, Instant instant, int64_t step) const {
  if (plan.at != instant) return false;
  if (plan.kind != FaultKind::kDamage) return plan.step == step;
  return step >= plan.step && HasCheckpoint(options_.run_directory + "/checkpoints");
}

absl::Status FaultInjector::Fire(Fault& fault, int64_t step) {
  switch (fault.plan.kind) {
    case FaultKind::kCrash:
      raise(SIGKILL);
      break;
    case FaultKind::kAbort:
      std::abort();
    case FaultKind::kExit:
      _exit(fault.plan.code);
    case FaultKind::kStop:
      raise(SIGSTOP);
      break;
    case FaultKind::kPreempt:
      // To the process: a thread of its own takes it.
      kill(getpid(), fault.plan.signal == StopSignal::kTerm ? SIGTERM : SIGUSR1);
      break;
    case FaultKind::kDeviceError:
      options_.compute.Fail(absl::InternalError("the device fails (planned fault)"));
      break;
    case FaultKind::kSupervisor:
      return KillSupervisor();
    case FaultKind::kDamage:
      return DamageShard(options_.run_directory + "/checkpoints",
                         ShardName(options_.rank, options_.num_ranks), fault.plan.how);
    case FaultKind::kSkip:
      options_.log->SkipNextCall(fault.plan.group);
      break;
    case FaultKind::kSlow:
    case FaultKind::kSlowData:
      fault.active = true;
      SlowDown(fault, fault.plan.at, step);
      break;
    case FaultKind::kFlip:
      return ChangeTarget(options_.tensors, fault.plan, options_.compute);
    case FaultKind::kNan:
    case FaultKind::kFlipGradient:
    case FaultKind::kFlipActivation:
    case FaultKind::kConfig:
    case FaultKind::kBuild:
    case FaultKind::kDiskError:
    case FaultKind::kDiskFull:
    case FaultKind::kDiskCrash:
    case FaultKind::kDiskExit:
    case FaultKind::kDiskSlow:
      break;  // not here
  }
  return absl::OkStatus();
}

void FaultInjector::SlowDown(Fault& fault, Instant instant, int64_t step) {
  if (fault.plan.steps > 0 && step >= fault.plan.step + fault.plan.steps) {
    fault.active = false;
  } else if (fault.plan.kind == FaultKind::kSlow) {
    SleepFor(static_cast<double>(kernels::MonotonicNs() - last_instant_ns_) * 1e-9 *
             fault.plan.share);
  } else if (instant == Instant::kData) {
    SleepFor(fault.plan.seconds);
  }
}

void FaultInjector::BeginPass(int64_t step, int pass) {
  step_ = step;
  pass_ = pass;
}

// A fault of several passes is marked in the first one.
bool FaultInjector::IsDueInPass(Fault& fault) {
  const PlannedFault& plan = fault.plan;
  if (plan.step != step_ || (plan.passes > 0 && pass_ >= plan.passes) || fault.last_pass == pass_) {
    return false;
  }
  if (!fault.active && (fault.done || !Mark(fault, step_))) return false;
  fault.active = true;
  fault.last_pass = pass_;
  return true;
}

absl::Status FaultInjector::AtActivations() {
  std::lock_guard lock(mutex_);
  for (Fault& fault : faults_) {
    if (fault.plan.kind != FaultKind::kFlipActivation || !IsDueInPass(fault)) continue;
    RETURN_IF_ERROR(ChangeTarget(options_.tensors, fault.plan, options_.compute));
  }
  return absl::OkStatus();
}

absl::Status FaultInjector::AtGradients(const std::vector<parallel::BucketSlice>& slices) {
  std::lock_guard lock(mutex_);
  for (Fault& fault : faults_) {
    const FaultKind kind = fault.plan.kind;
    if (kind != FaultKind::kNan && kind != FaultKind::kFlipGradient) continue;
    const parallel::ParameterId target = TargetParameter(options_.tensors, fault.plan);
    const bool here = std::any_of(slices.begin(), slices.end(),
                                  [&](const auto& slice) { return slice.parameter == target; });
    if (!here || !IsDueInPass(fault)) continue;
    RETURN_IF_ERROR(ChangeTarget(options_.tensors, fault.plan, options_.compute));
  }
  return absl::OkStatus();
}

// Whether a disk is full or slow now.
bool FaultInjector::LastsNow(Fault& fault, int64_t step) {
  if (!fault.done) fault.active = Mark(fault, step);
  const PlannedFault& plan = fault.plan;
  return fault.active && (plan.steps == 0 || step < fault.begun + plan.steps);
}

absl::Status FaultInjector::AtDiskCall(SaveTier tier, const std::string& call,
                                       const std::string& path) {
  if (faults_.empty()) return absl::OkStatus();
  std::unique_lock lock(mutex_);
  double delay = 0;
  absl::Status status;
  for (Fault& fault : faults_) {
    const PlannedFault& plan = fault.plan;
    const int64_t step = step_;
    if (!IsDiskFault(plan.kind) || plan.tier != tier || step < plan.step ||
        (!plan.on.empty() && plan.on != call)) {
      continue;
    }
    if (plan.kind == FaultKind::kDiskSlow) {
      if (LastsNow(fault, step)) delay += plan.seconds;
      continue;
    }
    if (!status.ok()) continue;
    if (plan.kind == FaultKind::kDiskFull) {
      if (!LastsNow(fault, step)) continue;
      status = absl::ResourceExhaustedError(call + " " + path +
                                            ": No space left on device (planned fault)");
      continue;
    }
    if (fault.done || ++fault.disk_calls < plan.call || !Mark(fault, step)) continue;
    if (plan.kind == FaultKind::kDiskCrash) raise(SIGKILL);
    if (plan.kind == FaultKind::kDiskExit) _exit(plan.code);
    status = absl::UnavailableError(call + " " + path + ": Input/output error (planned fault)");
  }
  lock.unlock();  // training goes on meanwhile
  if (delay > 0) SleepFor(delay);
  return status;
}

}  // namespace muster::runtime
