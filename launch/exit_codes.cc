#include "launch/exit_codes.h"

#include "runtime/train/roll_back.h"

namespace muster::launch {

int ExitCodeOf(const absl::Status& error) {
  if (runtime::IsRollBack(error)) return kExitRollBack;
  return absl::IsAborted(error) ? kExitDoNotRequeue : kExitFailure;
}

int ExitCodeOfStart(const absl::Status& error) {
  switch (error.code()) {
    case absl::StatusCode::kInvalidArgument:
    case absl::StatusCode::kFailedPrecondition:
    case absl::StatusCode::kAlreadyExists:
    case absl::StatusCode::kNotFound:
    case absl::StatusCode::kPermissionDenied:
    case absl::StatusCode::kUnimplemented:
      return kExitUsage;
    default:
      return ExitCodeOf(error);
  }
}

}  // namespace muster::launch
