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
#include "kernels/device/memory.h"
#include "kernels/device/span.h"

namespace muster::runtime {
namespace {

using kernels::DType;
using kernels::TensorView;

void SleepFor(double seconds) {
  std::this_thread::sleep_for(std::chrono::duration<double>(seconds));
}

// The bytes of a NaN, little-endian.
uint64_t NanBits(DType dtype) {
  switch (dtype) {
    case DType::kBFloat16:
      return 0x7fc0;
    case DType::kFloat64:
      return 0x7ff8000000000000;
    default:
      return 0x7fc00000;
  }
}

const TensorView& PartOf(const parallel::OptimizerSlice& slice, StatePart part) {
  switch (part) {
    case StatePart::kWeight:
      return slice.weight;
    case StatePart::kMaster:
      return slice.master;
    case StatePart::kMoment1:
      return slice.moment1;
    case StatePart::kMoment2:
      break;
  }
  return slice.moment2;
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
    if (fault.plan.rank != own.rank || fault.plan.kind == FaultKind::kConfig) continue;
    const bool changes = fault.plan.kind == FaultKind::kNan || fault.plan.kind == FaultKind::kFlip;
    if (changes && !injector->Holds(fault.plan)) {
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
    if (fault.active && !IsDiskFault(fault.plan.kind)) SlowDown(fault, instant, step);
    if (fault.done || IsDiskFault(fault.plan.kind) || fault.plan.at != instant ||
        fault.plan.step != step || !Mark(fault, step)) {
      continue;
    }
    RETURN_IF_ERROR(Fire(fault, step));
  }
  last_instant_ns_ = kernels::MonotonicNs();
  return absl::OkStatus();
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
      kill(getpid(), SIGTERM);  // to the process: a thread of its own takes it
      break;
    case FaultKind::kSkip:
      options_.log->SkipNextCall(fault.plan.group);
      break;
    case FaultKind::kSlow:
    case FaultKind::kSlowData:
      fault.active = true;
      SlowDown(fault, fault.plan.at, step);
      break;
    case FaultKind::kNan:
    case FaultKind::kFlip:
      return ChangeTensor(fault.plan);
    case FaultKind::kConfig:
    case FaultKind::kDiskError:
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

bool FaultInjector::Holds(const PlannedFault& plan) const {
  const auto is_wanted = [&](parallel::ParameterId id) {
    return plan.tensor.empty() || (*options_.parameters)[id].global_name == plan.tensor;
  };
  if (plan.kind == FaultKind::kFlip && plan.of != StatePart::kWeight) {
    const std::vector<parallel::OptimizerSlice> slices = options_.optimizer->Slices();
    return std::any_of(slices.begin(), slices.end(),
                       [&](const auto& slice) { return is_wanted(slice.parameter); });
  }
  for (parallel::ParameterId id = 0; id < options_.parameters->size(); ++id) {
    if (is_wanted(id)) return true;
  }
  return false;
}

// What the plan changes: a gradient or a weight as a whole if it is there, else what this rank
// updates of it. Null: it is not here now.
TensorView FaultInjector::Find(const PlannedFault& plan) const {
  const bool whole = plan.kind == FaultKind::kNan || plan.of == StatePart::kWeight;
  for (const parallel::Parameter& parameter : *options_.parameters) {
    if (!whole || (!plan.tensor.empty() && parameter.global_name != plan.tensor)) continue;
    const TensorView& tensor = plan.kind == FaultKind::kNan ? parameter.gradient : parameter.weight;
    if (tensor) return tensor;
    break;
  }
  if (plan.kind == FaultKind::kNan) return {};
  for (const parallel::OptimizerSlice& slice : options_.optimizer->Slices()) {
    const std::string& name = (*options_.parameters)[slice.parameter].global_name;
    if (plan.tensor.empty() || name == plan.tensor) return PartOf(slice, plan.of);
  }
  return {};
}

absl::Status FaultInjector::ChangeTensor(const PlannedFault& plan) {
  const TensorView tensor = Find(plan);
  if (!tensor) {
    return absl::FailedPreconditionError(absl::StrCat(
        "planned fault ", Name(plan.kind), " of ", plan.tensor.empty() ? "a tensor" : plan.tensor,
        ": this rank holds nothing of it just now"));
  }
  const int64_t bytes = kernels::SizeOf(tensor.dtype);
  uint64_t bits = NanBits(tensor.dtype);
  if (plan.kind == FaultKind::kFlip) {
    bits = 0;
    kernels::CopyAsync(&bits, tensor.data, bytes, options_.compute);
    RETURN_IF_ERROR(options_.compute.Synchronize());
    bits ^= uint64_t{1} << (plan.bit % (8 * bytes));
  }
  kernels::CopyAsync(tensor.data, &bits, bytes, options_.compute);
  return options_.compute.Synchronize();
}

// Seconds that a slow disk adds to a call.
double FaultInjector::DiskDelay(Fault& fault, int64_t step) {
  if (!fault.done) fault.active = Mark(fault, step);
  const PlannedFault& plan = fault.plan;
  const bool over = plan.steps > 0 && step >= plan.step + plan.steps;
  return fault.active && !over ? plan.seconds : 0;
}

absl::Status FaultInjector::AtDiskCall(const std::string& call, const std::string& path) {
  if (faults_.empty()) return absl::OkStatus();
  std::unique_lock lock(mutex_);
  double delay = 0;
  for (Fault& fault : faults_) {
    const PlannedFault& plan = fault.plan;
    const int64_t step = step_;
    if (!IsDiskFault(plan.kind) || step < plan.step || (!plan.on.empty() && plan.on != call)) {
      continue;
    }
    if (plan.kind == FaultKind::kDiskSlow) {
      delay += DiskDelay(fault, step);
      continue;
    }
    if (fault.done || ++fault.disk_calls < plan.call || !Mark(fault, step)) continue;
    if (plan.kind == FaultKind::kDiskCrash) raise(SIGKILL);
    if (plan.kind == FaultKind::kDiskExit) _exit(plan.code);
    return absl::UnavailableError(call + " " + path + ": Input/output error (planned fault)");
  }
  lock.unlock();  // training goes on meanwhile
  if (delay > 0) SleepFor(delay);
  return absl::OkStatus();
}

}  // namespace muster::runtime
