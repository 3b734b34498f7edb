#pragma once
// Where two jobs differ, field by field, and which of these a run may change when it goes on.
#include <string>
#include <vector>

#include "runtime/job/job.pb.h"

namespace muster::runtime {

struct FieldDifference {
  std::string path;           // "optimizer.beta1"; a block that only one has: its fields
  std::string first, second;  // values as in a config; "(none)" where absent
};

// In order of declaration. Blocks in a list are compared as a whole.
std::vector<FieldDifference> Differences(const Job& first, const Job& second);

// False for what decides the numbers: the model, the data and its order, the batch, the optimizer,
// precision. Another mesh, schedule, number of steps or device sums in another order at most.
bool MayChangeOnResume(const std::string& path);

// "optimizer.beta1: 0.9 -> 0.8", a line each, indented by two.
std::string Describe(const std::vector<FieldDifference>& differences);

}  // namespace muster::runtime
