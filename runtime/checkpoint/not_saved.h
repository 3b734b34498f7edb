#pragma once
// An error of the disk alone: the run is well, but what it should leave is not there. `muster
// train` ends with an exit code of its own for it.
#include "absl/status/status.h"
#include "absl/strings/cord.h"

namespace muster::runtime {

constexpr char kNotSavedPayload[] = "muster/not_saved";

// OK stays OK.
inline absl::Status NotSavedError(absl::Status error) {
  if (!error.ok()) error.SetPayload(kNotSavedPayload, absl::Cord("1"));
  return error;
}

inline bool IsNotSaved(const absl::Status& status) {
  return status.GetPayload(kNotSavedPayload).has_value();
}

}  // namespace muster::runtime
