#include "runtime/job/field_value.h"

#include <charconv>
#include <cmath>
#include <cstdint>
#include <limits>
#include <optional>
#include <vector>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "kernels/base/error.h"
#include "runtime/job/nearest_name.h"

namespace muster::runtime {
namespace {

using google::protobuf::FieldDescriptor;
using google::protobuf::Message;
using google::protobuf::Reflection;

bool IsDigit(char c) { return c >= '0' && c <= '9'; }

// Decimal, or hexadecimal and octal as in C; no sign. nullopt: not a whole number, or above 2^64.
std::optional<uint64_t> ParseUnsigned(std::string_view text) {
  int base = 10;
  if (text.size() > 2 && text[0] == '0' && (text[1] == 'x' || text[1] == 'X')) {
    base = 16;
    text.remove_prefix(2);
  } else if (text.size() > 1 && text[0] == '0') {
    base = 8;
    text.remove_prefix(1);
  }
  uint64_t value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value, base);
  if (error != std::errc() || end != text.data() + text.size()) return std::nullopt;
  return value;
}

// Decimal with optional point and exponent, inf or nan, and a minus sign.
std::optional<double> ParseReal(std::string_view text) {
  const bool negative = text.starts_with('-');
  if (negative) text.remove_prefix(1);
  const std::string lower = absl::AsciiStrToLower(absl::string_view(text.data(), text.size()));
  double value = 0;
  if (lower == "inf" || lower == "infinity") {
    value = std::numeric_limits<double>::infinity();
  } else if (lower == "nan") {
    value = std::numeric_limits<double>::quiet_NaN();
  } else {
    if (text.empty() || !(IsDigit(text[0]) || text[0] == '.')) return std::nullopt;
    if (text.size() > 1 && text[0] == '0' && IsDigit(text[1])) return std::nullopt;
    const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
    if (error != std::errc() || end != text.data() + text.size()) return std::nullopt;
  }
  return negative ? -value : value;
}

// The rule of an integer field that a text breaks, with the nearest value that keeps it.
std::string IntegerRule(const std::string& text, double low, const char* low_text, double high,
                        const char* high_text) {
  const std::optional<double> real = ParseReal(text);
  if (!real.has_value() || std::isnan(*real)) return "must be an integer";
  if (*real < low) return absl::StrCat("must be an integer of at least ", low_text);
  if (*real >= high) return absl::StrCat("must be an integer of at most ", high_text);
  return absl::StrCat("must be an integer; the nearest is ",
                      static_cast<int64_t>(std::llround(*real)));
}

template <typename Integer>
std::optional<Integer> ParseSigned(std::string_view text) {
  const bool negative = text.starts_with('-');
  if (negative) text.remove_prefix(1);
  const std::optional<uint64_t> magnitude = ParseUnsigned(text);
  const uint64_t largest = static_cast<uint64_t>(std::numeric_limits<Integer>::max());
  if (!magnitude.has_value() || *magnitude > largest + (negative ? 1 : 0)) return std::nullopt;
  return static_cast<Integer>(negative ? 0 - *magnitude : *magnitude);
}

std::optional<bool> ParseBool(const std::string& text) {
  if (text == "true" || text == "True" || text == "t" || text == "1") return true;
  if (text == "false" || text == "False" || text == "f" || text == "0") return false;
  return std::nullopt;
}

std::string EnumRule(const FieldDescriptor& field, const std::string& text) {
  std::vector<std::string> names;
  for (int i = 0; i < field.enum_type()->value_count(); ++i) {
    names.push_back(field.enum_type()->value(i)->name());
  }
  constexpr size_t kLongestName = 200;  // edit distances are quadratic; nobody means such a name
  const std::string nearest = text.size() > kLongestName ? "" : NearestName(text, names);
  return absl::StrCat("must be one of ", absl::StrJoin(names, ", "),
                      nearest.empty() ? "" : absl::StrCat("; the nearest is ", nearest));
}

std::string SetInt32(Message* message, const FieldDescriptor* field, const std::string& text) {
  const std::optional<int32_t> value = ParseSigned<int32_t>(text);
  if (!value.has_value()) {
    return IntegerRule(text, -0x1p31, "-2147483648", 0x1p31, "2147483647");
  }
  if (field->is_repeated()) {
    message->GetReflection()->AddInt32(message, field, *value);
  } else {
    message->GetReflection()->SetInt32(message, field, *value);
  }
  return "";
}

std::string SetInt64(Message* message, const FieldDescriptor* field, const std::string& text) {
  const std::optional<int64_t> value = ParseSigned<int64_t>(text);
  if (!value.has_value()) {
    return IntegerRule(text, -0x1p63, "-9223372036854775808", 0x1p63, "9223372036854775807");
  }
  message->GetReflection()->SetInt64(message, field, *value);
  return "";
}

std::string SetUInt64(Message* message, const FieldDescriptor* field, const std::string& text) {
  const std::optional<uint64_t> value = ParseUnsigned(text);
  if (!value.has_value()) {
    return IntegerRule(text, 0, "0", 0x1p63, "18446744073709551615");
  }
  message->GetReflection()->SetUInt64(message, field, *value);
  return "";
}

}  // namespace

std::string SetScalar(Message* message, const FieldDescriptor* field, const ValueText& value) {
  const Reflection& reflection = *message->GetReflection();
  const std::string& text = value.text;
  if (field->cpp_type() == FieldDescriptor::CPPTYPE_STRING) {
    if (!value.quoted) return absl::StrCat("must be in quotes: \"", text, "\"");
    if (field->is_repeated()) {
      reflection.AddString(message, field, text);
    } else {
      reflection.SetString(message, field, text);
    }
    return "";
  }
  MUSTER_CHECK(!field->is_repeated() || field->cpp_type() == FieldDescriptor::CPPTYPE_INT32)
      << "only strings and int32 repeat in configs: " << field->full_name();
  if (value.quoted) return absl::StrCat("must be a ", field->type_name(), " without quotes");
  switch (field->cpp_type()) {
    case FieldDescriptor::CPPTYPE_INT32:
      return SetInt32(message, field, text);
    case FieldDescriptor::CPPTYPE_INT64:
      return SetInt64(message, field, text);
    case FieldDescriptor::CPPTYPE_UINT64:
      return SetUInt64(message, field, text);
    case FieldDescriptor::CPPTYPE_FLOAT:
    case FieldDescriptor::CPPTYPE_DOUBLE: {
      const std::optional<double> real = ParseReal(text);
      if (!real.has_value()) return "must be a number";
      if (field->cpp_type() == FieldDescriptor::CPPTYPE_FLOAT) {
        reflection.SetFloat(message, field, static_cast<float>(*real));
      } else {
        reflection.SetDouble(message, field, *real);
      }
      return "";
    }
    case FieldDescriptor::CPPTYPE_BOOL: {
      const std::optional<bool> flag = ParseBool(text);
      if (!flag.has_value()) return "must be true or false";
      reflection.SetBool(message, field, *flag);
      return "";
    }
    case FieldDescriptor::CPPTYPE_ENUM: {
      const auto* named = field->enum_type()->FindValueByName(text);
      if (named == nullptr) return EnumRule(*field, text);
      reflection.SetEnum(message, field, named);
      return "";
    }
    default:
      return absl::StrCat("has the unsupported type ", field->type_name());
  }
}

}  // namespace muster::runtime
