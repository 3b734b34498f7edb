#pragma once
// "--set key.path=value" applied to a config message.
#include <string>
#include <vector>

#include "google/protobuf/message.h"
#include "runtime/job/config.h"
#include "runtime/job/field_path.h"

namespace muster::runtime {

// Applies overrides in order; of several for a key the last wins. Strings need no quotes; a list is
// replaced by the values between commas. An empty value empties a string or a list and removes a
// block ("data.synthetic="). Appends a problem for each that cannot be applied, placed at
// "--set <key>", and goes on.
void ApplyOverrides(const std::vector<std::string>& overrides, google::protobuf::Message* message,
                    FieldOrigins* origins, std::vector<ConfigProblem>* problems);

}  // namespace muster::runtime
