#pragma once
// Reads protobuf text format like google::protobuf::TextFormat, but goes on after a mistake, so
// that a file's mistakes are all found in one go: unknown keys, values of a wrong type, keys given
// twice, missing colons and braces. What it accepts without a problem TextFormat accepts too, with
// the same result; it does not accept extensions, field numbers or numbers for enum values.
#include <string>
#include <vector>

#include "google/protobuf/message.h"
#include "runtime/job/config.h"
#include "runtime/job/field_path.h"

namespace muster::runtime {

// Merges `text` into `message`; bad fields are left as they were. Paths in `origins` start with
// `prefix` ("" or "model."); places are "<origins->file()>:<line>". At most 100 problems are
// appended, then a note that the rest is not listed.
void ReadTextProto(const std::string& text, const std::string& prefix,
                   google::protobuf::Message* message, FieldOrigins* origins,
                   std::vector<ConfigProblem>* problems);

// Reads a whole file of at most 1 MiB to `text`; appends a problem and returns false otherwise.
bool ReadConfigFile(const std::string& path, std::string* text,
                    std::vector<ConfigProblem>* problems);

}  // namespace muster::runtime
