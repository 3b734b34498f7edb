#pragma once
// Planned faults, for drills: faults { plan: "crash rank=2 step=5 at=backward" plan: ... }. A plan
// is a kind and key=value words. runtime/fault/injector.h carries it out.
//
//   crash, abort, exit, stop      SIGKILL, abort(), _exit(code), SIGSTOP of the rank itself
//   preempt [signal=term]         SIGTERM to the rank itself, or usr1: SIGUSR1
//   device_error                  leaves an error in the compute stream, as a device's
//   supervisor                    SIGKILL to the `muster launch` above the rank, on its host
//   damage [how=flip]             the rank's shard of the newest checkpoint: a bit flipped, or
//                                 truncate: cut to half, or remove; once there is one
//   skip [group=dp]               leaves out its next collective (of that group)
//   slow share=0.1 [steps=n]      sleeps that share of its own time, for n steps (0: to the end)
//   slow_data seconds=0.2 [steps=n]  as long more for each batch
//   nan [tensor=name] [passes=0]  NaN in the first element of a gradient, before it is reduced, in
//                                 so many passes of the step (0: in all), if it is run again
//   flip_gradient [tensor=name] [bit=12] [passes=1]    one bit of that element
//   flip_activation [tensor=name] [bit=12] [passes=1]  one bit of the first element of what a
//                                 forward keeps (a block of the memory plan, without its slot)
//   flip [tensor=name] [of=weight] [bit=12]  one bit of the first element that the rank holds of a
//                                 weight, its master, moment1 or moment2; by default after the
//                                 update
//   config set=train.seed=7       the rank has another config, in every start
//   build                         the rank says that it is another program, in every start
//   disk_error [call=k] [on=write]   the k-th disk call of the rank's save fails with EIO
//   disk_full [on=write] [steps=n]   disk calls fail with ENOSPC, for n steps (0: to the end)
//   disk_crash [call=k] [on=rename]  SIGKILL in front of it
//   disk_exit [call=k] [on=fsync]    _exit(code) in front of it
//   disk_slow seconds=0.2 [on=write] [steps=n]  disk calls take as long more
// All take rank= (of the world, default 0) and step= (default 1). Disk kinds happen on a writer's
// thread, whenever that comes to the call; they count calls from that step on, of saves to the disk
// or, with tier=memory, to the hosts' memory. at= is the instant of the others: begin, data,
// backward, reduced, updated; evaluate, a round of the evaluation behind the step.
#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"

namespace muster::runtime {

enum class FaultKind : uint8_t {
  kCrash,
  kAbort,
  kExit,
  kStop,
  kPreempt,
  kDeviceError,
  kSupervisor,
  kDamage,
  kSkip,
  kSlow,
  kSlowData,
  kNan,
  kFlipGradient,
  kFlipActivation,
  kFlip,
  kConfig,
  kBuild,
  kDiskError,
  kDiskFull,
  kDiskCrash,
  kDiskExit,
  kDiskSlow,
};
// What an optimizer keeps of a parameter; a master is the weight itself unless weights are bf16.
enum class StatePart : uint8_t { kWeight, kMaster, kMoment1, kMoment2 };
enum class Damage : uint8_t { kFlip, kTruncate, kRemove };  // to a file
enum class SaveTier : uint8_t { kDisk, kMemory };
enum class StopSignal : uint8_t { kTerm, kUsr1 };
// Where in a step.
enum class Instant : uint8_t { kBegin, kData, kBackward, kReduced, kUpdated, kEvaluate };

struct PlannedFault {
  FaultKind kind = FaultKind::kCrash;
  int rank = 0;
  int64_t step = 1;
  Instant at = Instant::kBegin;
  StatePart of = StatePart::kWeight;
  Damage how = Damage::kFlip;
  SaveTier tier = SaveTier::kDisk;
  StopSignal signal = StopSignal::kTerm;
  int64_t steps = 1, call = 1, passes = 1;
  int code = 1, bit = 12;
  double seconds = 0, share = 0;
  std::string group, tensor, on, set;
};

bool IsDiskFault(FaultKind kind);
bool HappensInPasses(FaultKind kind);  // of forward and backward: those with passes=
const char* Name(FaultKind kind);
// Appends a sentence for each thing that is wrong with the plan; the result is meaningful if none
// was. `world_size` 0: not known.
PlannedFault ParseFaultPlan(const std::string& plan, int world_size,
                            std::vector<std::string>* problems);

// What `config` faults add to the --set options of `rank`. Plans that are wrong add nothing.
std::vector<std::string> PlannedOverrides(const std::vector<std::string>& plans, int rank);
// Whether a `build` fault makes `rank` another program.
bool PlansOtherBuild(const std::vector<std::string>& plans, int rank);

}  // namespace muster::runtime
