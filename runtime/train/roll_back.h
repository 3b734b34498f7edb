#pragma once
// An error after which the run has to go back to a checkpoint: its state, or what led to it, is not
// to be trusted. `muster train` ends with an exit code of its own for it.
#include <string>

#include "absl/status/status.h"
#include "absl/strings/cord.h"

namespace muster::runtime {

constexpr char kRollBackPayload[] = "muster/roll_back";

inline absl::Status RollBackError(const std::string& message) {
  absl::Status status = absl::DataLossError(message);
  status.SetPayload(kRollBackPayload, absl::Cord("1"));
  return status;
}

inline bool IsRollBack(const absl::Status& status) {
  return status.GetPayload(kRollBackPayload).has_value();
}

}  // namespace muster::runtime
