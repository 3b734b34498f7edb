#include "runtime/job/config_difference.h"

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "google/protobuf/descriptor.h"
#include "google/protobuf/message.h"
#include "google/protobuf/text_format.h"

namespace muster::runtime {
namespace {

using google::protobuf::FieldDescriptor;
using google::protobuf::Message;
using google::protobuf::TextFormat;

bool IsPresent(const Message& message, const FieldDescriptor& field) {
  return field.is_repeated() ? message.GetReflection()->FieldSize(message, &field) > 0
                             : message.GetReflection()->HasField(message, &field);
}

std::string ValueText(const Message& message, const FieldDescriptor& field) {
  if (!IsPresent(message, field)) return "(none)";
  std::string text;
  if (!field.is_repeated()) {
    TextFormat::PrintFieldValueToString(message, &field, -1, &text);
    return text;
  }
  const int size = message.GetReflection()->FieldSize(message, &field);
  for (int i = 0; i < size; ++i) {
    std::string value;
    TextFormat::PrintFieldValueToString(message, &field, i, &value);
    absl::StrAppend(&text, i == 0 ? "" : ", ", value);
  }
  return text;
}

void Compare(const Message& first, const Message& second, const std::string& prefix,
             std::vector<FieldDifference>* differences) {
  const google::protobuf::Descriptor& type = *first.GetDescriptor();
  for (int i = 0; i < type.field_count(); ++i) {
    const FieldDescriptor& field = *type.field(i);
    const std::string path = prefix + field.name();
    if (field.cpp_type() == FieldDescriptor::CPPTYPE_MESSAGE && !field.is_repeated()) {
      if (!IsPresent(first, field) && !IsPresent(second, field)) continue;
      Compare(first.GetReflection()->GetMessage(first, &field),
              second.GetReflection()->GetMessage(second, &field), path + ".", differences);
      continue;
    }
    FieldDifference found{path, ValueText(first, field), ValueText(second, field)};
    if (found.first != found.second) differences->push_back(std::move(found));
  }
}

}  // namespace

std::vector<FieldDifference> Differences(const Job& first, const Job& second) {
  std::vector<FieldDifference> differences;
  Compare(first, second, "", &differences);
  return differences;
}

bool MayChangeOnResume(const std::string& path) {
  if (path == "model.name" || path == "data.tokenizer") return true;
  static constexpr const char* kFixed[] = {
      "model.",
      "data.",
      "train.seed",
      "train.global_batch_sequences",
      "optimizer.",
      "train.sequence_length",
      "precision.compute",
  };
  return std::none_of(std::begin(kFixed), std::end(kFixed),
                      [&](const char* fixed) { return path.starts_with(fixed); });
}

std::string Describe(const std::vector<FieldDifference>& differences) {
  std::string text;
  for (const FieldDifference& each : differences) {
    absl::StrAppend(&text, "\n  ", each.path, ": ", each.first, " -> ", each.second);
  }
  return text;
}

}  // namespace muster::runtime
