#pragma once
// One answer for all ranks to a question that each can only answer for itself.
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "parallel/comm/rendezvous.h"

namespace muster::runtime {

// A status as text and back; "" is OK. What ranks exchange while they agree.
std::string StatusText(const absl::Status& status);
// The error of the lowest rank that has one. A rank that only gave up because of another one
// (Cancelled) is named last.
absl::Status FirstError(const std::vector<std::string>& texts);

// Collective. OK if it is OK on every rank; else the error of the lowest rank that has one, its
// code kept and the rank named, equal on all ranks. The outer error is the world's: no agreement.
absl::StatusOr<absl::Status> Agree(const absl::Status& mine, parallel::World& world);

}  // namespace muster::runtime
