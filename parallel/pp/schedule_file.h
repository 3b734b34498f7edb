#pragma once
// A schedule of one's own, as text:
//   # anything after a hash is a comment
//   0: F0.0 F0.1 B0.0 B0.1      rank: actions in order, as ToString writes them
//   1: F1.0 B1.0                kind, stage, dot, microbatch; kinds F, B, or I and W apart
//   1: F1.1 B1.1                a rank's list may go on in another line
// Stages count from 0 in the order of the forward and may be on any rank; every rank has a list.
#include <string>

#include "absl/status/statusor.h"
#include "parallel/pp/schedule.h"

namespace muster::parallel {

// Errors: InvalidArgument "<name>:<line>: what was found, what was wanted". What the lists say is
// for CheckSchedule to judge.
absl::StatusOr<Schedule> ParseSchedule(const std::string& text, const std::string& name);
// The text of a schedule: what ParseSchedule reads back.
std::string FormatSchedule(const Schedule& schedule);

}  // namespace muster::parallel
