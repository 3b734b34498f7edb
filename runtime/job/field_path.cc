#include "runtime/job/field_path.h"

#include "absl/strings/str_cat.h"
#include "google/protobuf/text_format.h"
#include "kernels/base/error.h"
#include "runtime/job/job.pb.h"
#include "runtime/job/nearest_name.h"

namespace muster::runtime {
namespace {

using google::protobuf::Descriptor;
using google::protobuf::FieldDescriptor;
using google::protobuf::Message;
using google::protobuf::Reflection;

void CollectPaths(const Descriptor& type, const std::string& prefix, bool with_blocks,
                  std::vector<std::string>* paths) {
  for (int i = 0; i < type.field_count(); ++i) {
    const FieldDescriptor& field = *type.field(i);
    const std::string path = prefix + field.name();
    const bool block = field.cpp_type() == FieldDescriptor::CPPTYPE_MESSAGE;
    if (!block || with_blocks) paths->push_back(path);
    if (block) CollectPaths(*field.message_type(), path + ".", with_blocks, paths);
  }
}

// The message that holds the last name of `path`, and that field.
struct Place {
  const Message* parent;
  const FieldDescriptor* field;
};

Place Find(const Message& message, const std::string& path) {
  const Message* parent = &message;
  size_t begin = 0;
  while (true) {
    const size_t dot = path.find('.', begin);
    const FieldDescriptor* field =
        parent->GetDescriptor()->FindFieldByName(path.substr(begin, dot - begin));
    MUSTER_CHECK(field != nullptr) << path;
    if (dot == std::string::npos) return {parent, field};
    parent = &parent->GetReflection()->GetMessage(*parent, field);
    begin = dot + 1;
  }
}

std::string DefaultText(const FieldDescriptor& field) {
  switch (field.cpp_type()) {
    case FieldDescriptor::CPPTYPE_INT32:
      return absl::StrCat(field.default_value_int32());
    case FieldDescriptor::CPPTYPE_INT64:
      return absl::StrCat(field.default_value_int64());
    case FieldDescriptor::CPPTYPE_UINT32:
      return absl::StrCat(field.default_value_uint32());
    case FieldDescriptor::CPPTYPE_UINT64:
      return absl::StrCat(field.default_value_uint64());
    case FieldDescriptor::CPPTYPE_FLOAT:
      return absl::StrCat(field.default_value_float());
    case FieldDescriptor::CPPTYPE_DOUBLE:
      return absl::StrCat(field.default_value_double());
    case FieldDescriptor::CPPTYPE_BOOL:
      return field.default_value_bool() ? "true" : "false";
    case FieldDescriptor::CPPTYPE_ENUM:
      return field.default_value_enum()->name();
    case FieldDescriptor::CPPTYPE_STRING:
      return absl::StrCat("\"", field.default_value_string(), "\"");
    case FieldDescriptor::CPPTYPE_MESSAGE:
      break;
  }
  return "";
}

std::string TypeText(const FieldDescriptor& field) {
  std::string text = field.is_repeated() ? "repeated " : "";
  if (field.cpp_type() != FieldDescriptor::CPPTYPE_ENUM) return text + field.type_name();
  text += field.enum_type()->name();
  for (int i = 0; i < field.enum_type()->value_count(); ++i) {
    absl::StrAppend(&text, i == 0 ? "{" : ",", field.enum_type()->value(i)->name());
  }
  return text + "}";
}

void CollectKeys(const Descriptor& type, const std::string& prefix,
                 std::vector<std::string>* keys) {
  for (int i = 0; i < type.field_count(); ++i) {
    const FieldDescriptor& field = *type.field(i);
    if (field.cpp_type() == FieldDescriptor::CPPTYPE_MESSAGE) {
      CollectKeys(*field.message_type(), absl::StrCat(prefix, field.name(), "."), keys);
      continue;
    }
    std::string key = absl::StrCat(prefix, field.name(), " ", TypeText(field));
    if (field.has_default_value()) absl::StrAppend(&key, " = ", DefaultText(field));
    keys->push_back(std::move(key));
  }
}

void SetToDefault(Message* message, const FieldDescriptor* field) {
  const Reflection& reflection = *message->GetReflection();
  switch (field->cpp_type()) {
    case FieldDescriptor::CPPTYPE_INT32:
      return reflection.SetInt32(message, field, field->default_value_int32());
    case FieldDescriptor::CPPTYPE_INT64:
      return reflection.SetInt64(message, field, field->default_value_int64());
    case FieldDescriptor::CPPTYPE_UINT32:
      return reflection.SetUInt32(message, field, field->default_value_uint32());
    case FieldDescriptor::CPPTYPE_UINT64:
      return reflection.SetUInt64(message, field, field->default_value_uint64());
    case FieldDescriptor::CPPTYPE_FLOAT:
      return reflection.SetFloat(message, field, field->default_value_float());
    case FieldDescriptor::CPPTYPE_DOUBLE:
      return reflection.SetDouble(message, field, field->default_value_double());
    case FieldDescriptor::CPPTYPE_BOOL:
      return reflection.SetBool(message, field, field->default_value_bool());
    case FieldDescriptor::CPPTYPE_ENUM:
      return reflection.SetEnum(message, field, field->default_value_enum());
    case FieldDescriptor::CPPTYPE_STRING:
      return reflection.SetString(message, field, field->default_value_string());
    case FieldDescriptor::CPPTYPE_MESSAGE:
      break;
  }
}

bool AbsenceMeansSomething(const FieldDescriptor& field) {
  return field.message_type() == models::MoeConfig::descriptor() ||
         field.message_type() == Synthetic::descriptor();
}

void CollectValues(const Message& message, const std::string& prefix,
                   std::vector<std::pair<std::string, std::string>>* values) {
  const Reflection& reflection = *message.GetReflection();
  std::vector<const FieldDescriptor*> fields;
  reflection.ListFields(message, &fields);
  for (const FieldDescriptor* field : fields) {
    const std::string path = prefix + field->name();
    const bool block = field->cpp_type() == FieldDescriptor::CPPTYPE_MESSAGE;
    if (block && !field->is_repeated()) {
      CollectValues(reflection.GetMessage(message, field), path + ".", values);
      continue;
    }
    const int size = field->is_repeated() ? reflection.FieldSize(message, field) : 1;
    for (int i = 0; i < size; ++i) {
      std::string text;
      google::protobuf::TextFormat::PrintFieldValueToString(message, field,
                                                            field->is_repeated() ? i : -1, &text);
      values->emplace_back(field->is_repeated() ? absl::StrCat(path, "[", i, "]") : path, text);
    }
  }
}

}  // namespace

std::vector<std::pair<std::string, std::string>> FieldValues(const Message& message) {
  std::vector<std::pair<std::string, std::string>> values;
  CollectValues(message, "", &values);
  return values;
}

std::vector<std::string> FieldPaths(const Descriptor& type, bool with_blocks) {
  std::vector<std::string> paths;
  CollectPaths(type, "", with_blocks, &paths);
  return paths;
}

std::vector<std::string> ConfigKeys() {
  std::vector<std::string> keys;
  CollectKeys(*Job::descriptor(), "", &keys);
  return keys;
}

std::string NearestPath(const std::string& path, const Descriptor& type) {
  constexpr size_t kLongestPath = 200;  // edit distances are quadratic; nobody means such a name
  if (path.size() > kLongestPath) return "";
  const std::vector<std::string> paths = FieldPaths(type, /*with_blocks=*/true);
  const std::string block = path.substr(0, path.rfind('.') + 1);
  const std::string name = path.substr(block.size());
  // A slip of the finger inside the same block is likelier than a wrong block.
  std::vector<std::string> siblings;
  for (const std::string& candidate : paths) {
    if (candidate.starts_with(block) && candidate.find('.', block.size()) == std::string::npos) {
      siblings.push_back(candidate.substr(block.size()));
    }
  }
  const std::string sibling = NearestName(name, siblings);
  if (!sibling.empty() && EditDistance(name, sibling) <= 1) return block + sibling;
  for (const std::string& candidate : paths) {
    if (candidate.substr(candidate.rfind('.') + 1) == name) return candidate;
  }
  return sibling.empty() ? NearestName(path, paths) : block + sibling;
}

void FillFieldDefaults(Message* message) {
  const Descriptor& type = *message->GetDescriptor();
  const Reflection& reflection = *message->GetReflection();
  for (int i = 0; i < type.field_count(); ++i) {
    const FieldDescriptor* field = type.field(i);
    if (field->is_repeated()) continue;
    const bool present = reflection.HasField(*message, field);
    if (field->cpp_type() == FieldDescriptor::CPPTYPE_MESSAGE) {
      if (present || !AbsenceMeansSomething(*field)) {
        FillFieldDefaults(reflection.MutableMessage(message, field));
      }
    } else if (!present && field->has_default_value()) {
      SetToDefault(message, field);
    }
  }
}

double NumberAt(const Message& message, const std::string& path) {
  const auto [parent, field] = Find(message, path);
  const Reflection& reflection = *parent->GetReflection();
  switch (field->cpp_type()) {
    case FieldDescriptor::CPPTYPE_INT32:
      return reflection.GetInt32(*parent, field);
    case FieldDescriptor::CPPTYPE_INT64:
      return static_cast<double>(reflection.GetInt64(*parent, field));
    case FieldDescriptor::CPPTYPE_FLOAT:
      return reflection.GetFloat(*parent, field);
    case FieldDescriptor::CPPTYPE_DOUBLE:
      return reflection.GetDouble(*parent, field);
    default:
      MUSTER_CHECK(false) << path << " is no number";
  }
  return 0;
}

bool IsGiven(const Message& message, const std::string& path) {
  const auto [parent, field] = Find(message, path);
  const Reflection& reflection = *parent->GetReflection();
  return field->is_repeated() ? reflection.FieldSize(*parent, field) > 0
                              : reflection.HasField(*parent, field);
}

void FieldOrigins::AddMissing(const FieldOrigins& other) {
  where_.insert(other.where_.begin(), other.where_.end());
  broken_.insert(other.broken_.begin(), other.broken_.end());
}

std::string FieldOrigins::WhereOf(std::string path) const {
  while (!path.empty()) {
    if (const auto found = where_.find(path); found != where_.end()) return found->second;
    const size_t dot = path.rfind('.');
    path.resize(dot == std::string::npos ? 0 : dot);
  }
  return file_;
}

bool FieldOrigins::IsBroken(std::string path) const {
  while (!path.empty()) {
    if (broken_.count(path) > 0) return true;
    const size_t dot = path.rfind('.');
    path.resize(dot == std::string::npos ? 0 : dot);
  }
  return false;
}

bool FieldOrigins::HasBroken(const std::string& path) const {
  if (IsBroken(path)) return true;
  const auto inside = broken_.lower_bound(path + ".");
  return inside != broken_.end() && inside->starts_with(path + ".");
}

}  // namespace muster::runtime
