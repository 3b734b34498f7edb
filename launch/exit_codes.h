#pragma once
// What muster's exit status tells scripts and schedulers (docs/guide/exit_codes.md). A supervisor
// or a batch script decides by it whether to start the job again.
#include "absl/status/status.h"
#include "runtime/job/exit_code.h"

namespace muster::launch {

using runtime::kExitDone, runtime::kExitFailure, runtime::kExitUsage, runtime::kExitNotSaved;
using runtime::kExitDoNotRequeue, runtime::kExitRequeue, runtime::kExitRollBack;

// Of an error while a job trains. A run that another job holds or has taken over stays so if this
// one is started again: kExitDoNotRequeue.
int ExitCodeOf(const absl::Status& error);
// Of one before it trains: kExitUsage for what a person has to correct (a config, a path, a
// permission), as ExitCodeOf for what may be over at the next start (a full disk, an EIO, a rank
// that did not answer in time, a damaged file).
int ExitCodeOfStart(const absl::Status& error);

struct ExitCodeText {
  int code;
  const char* meaning;
};
constexpr ExitCodeText kExitCodeTexts[] = {
    {kExitDone, "done"},
    {kExitFailure, "anything else"},
    {kExitUsage, "wrong usage or config"},
    {kExitNotSaved, "the state is not saved: start again"},
    {kExitRequeue, "requeue me"},
    {kExitRollBack, "start again from a checkpoint"},
    {kExitDoNotRequeue, "do not requeue"},
};

}  // namespace muster::launch
