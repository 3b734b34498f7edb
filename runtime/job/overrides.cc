#include "runtime/job/overrides.h"

#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "runtime/job/field_value.h"

namespace muster::runtime {
namespace {

using google::protobuf::Descriptor;
using google::protobuf::FieldDescriptor;
using google::protobuf::Message;

// The field that a dotted path names, or nullptr.
const FieldDescriptor* FindField(const Descriptor& type, const std::string& path) {
  const Descriptor* block = &type;
  const FieldDescriptor* field = nullptr;
  for (const auto& name : absl::StrSplit(path, '.')) {
    if (block == nullptr) return nullptr;
    field = block->FindFieldByName(std::string(name));
    if (field == nullptr) return nullptr;
    block = field->message_type();
  }
  return field;
}

// The message that holds the path's last name; blocks on the way are made.
Message* MutableParent(Message* message, const std::string& path) {
  size_t begin = 0;
  for (size_t dot = path.find('.'); dot != std::string::npos; dot = path.find('.', begin)) {
    const FieldDescriptor* field =
        message->GetDescriptor()->FindFieldByName(path.substr(begin, dot - begin));
    message = message->GetReflection()->MutableMessage(message, field);
    begin = dot + 1;
  }
  return message;
}

std::string WithoutQuotes(const std::string& text) {
  const bool quoted = text.size() >= 2 && (text.front() == '"' || text.front() == '\'') &&
                      text.front() == text.back();
  return quoted ? text.substr(1, text.size() - 2) : text;
}

// Returns "" or the broken rule.
std::string SetField(Message* parent, const FieldDescriptor* field, const std::string& text) {
  const bool is_string = field->cpp_type() == FieldDescriptor::CPPTYPE_STRING;
  const bool is_block = field->cpp_type() == FieldDescriptor::CPPTYPE_MESSAGE;
  if (text.empty() && (is_string || is_block || field->is_repeated())) {
    parent->GetReflection()->ClearField(parent, field);
    return "";
  }
  if (is_block) {
    std::string keys;
    for (const std::string& key : FieldPaths(*field->message_type(), /*with_blocks=*/true)) {
      absl::StrAppend(&keys, keys.empty() ? "" : ", ", key);
    }
    return absl::StrCat("is a block: set one of its keys (", keys, ")");
  }
  if (!field->is_repeated()) {
    return SetScalar(parent, field, {is_string ? WithoutQuotes(text) : text, is_string});
  }
  parent->GetReflection()->ClearField(parent, field);
  for (const auto& piece : absl::StrSplit(text, ',')) {
    const std::string rule =
        SetScalar(parent, field, {WithoutQuotes(std::string(piece)), is_string});
    if (!rule.empty()) return rule;
  }
  return "";
}

void ApplyOverride(const std::string& text, Message* message, FieldOrigins* origins,
                   std::vector<ConfigProblem>* problems) {
  const size_t equals = text.find('=');
  const std::string path = text.substr(0, equals);
  const std::string where = "--set " + path;
  if (equals == std::string::npos) {
    problems->push_back({where, "wanted key=value, found no ="});
    return;
  }
  const FieldDescriptor* field = FindField(*message->GetDescriptor(), path);
  if (field == nullptr) {
    const std::string nearest = NearestPath(path, *message->GetDescriptor());
    problems->push_back({where, absl::StrCat("unknown key ", path,
                                             nearest.empty() ? "; docs/guide/config.md lists them"
                                                             : ": did you mean " + nearest + "?")});
    if (!nearest.empty()) origins->MarkBroken(nearest);
    return;
  }
  const std::string value = text.substr(equals + 1);
  const std::string rule = SetField(MutableParent(message, path), field, value);
  origins->Record(path, where);
  if (rule.empty()) return;
  origins->MarkBroken(path);
  problems->push_back(
      {where, absl::StrCat(path, " is ", value.empty() ? "empty" : value, ": it ", rule)});
}

}  // namespace

void ApplyOverrides(const std::vector<std::string>& overrides, Message* message,
                    FieldOrigins* origins, std::vector<ConfigProblem>* problems) {
  for (const std::string& text : overrides) ApplyOverride(text, message, origins, problems);
}

}  // namespace muster::runtime
