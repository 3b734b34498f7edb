#pragma once
// Text to the value of a scalar field, with an error that says what would be right.
#include <string>

#include "google/protobuf/descriptor.h"
#include "google/protobuf/message.h"

namespace muster::runtime {

struct ValueText {
  std::string text;  // quotes removed and escapes resolved, if there were any
  bool quoted = false;
};

// Sets a scalar field, or appends to a repeated one. Accepts what protobuf's text format accepts
// for the type, but enum values by name only. Returns "" or the broken rule: "must be an integer;
// the nearest is 3".
std::string SetScalar(google::protobuf::Message* message,
                      const google::protobuf::FieldDescriptor* field, const ValueText& value);

}  // namespace muster::runtime
