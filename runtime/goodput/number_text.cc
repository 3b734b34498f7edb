#include "runtime/goodput/number_text.h"

#include <cmath>
#include <cstdio>

#include "absl/strings/str_cat.h"

namespace muster::runtime {
namespace {

// Groups the digits before the point in threes; `text` as printf's %f writes a finite number.
std::string Grouped(std::string text) {
  const size_t first = text.starts_with('-') ? 1 : 0;
  size_t at = text.find('.');
  if (at == std::string::npos) at = text.size();
  while (at > first + 3) {
    at -= 3;
    text.insert(at, 1, ',');
  }
  return text;
}

}  // namespace

std::string Fixed(double value, int digits) {
  char text[352];  // the largest double has 309 digits before the point
  std::snprintf(text, sizeof(text), "%.*f", digits, value);
  return text;
}

std::string WithThousands(int64_t value) { return Grouped(std::to_string(value)); }

std::string WithThousands(double value, int digits) {
  return std::isfinite(value) ? Grouped(Fixed(value, digits)) : Fixed(value, digits);
}

std::string Scientific(double value, int digits) {
  char text[64];
  std::snprintf(text, sizeof(text), "%.*e", digits, value);
  std::string result = text;
  const size_t exponent = result.find('e');
  if (exponent == std::string::npos) return result;  // nan, inf
  size_t digit = exponent + 1;
  if (result[digit] == '+') result.erase(digit, 1);
  if (result[digit] == '-') ++digit;
  while (digit + 1 < result.size() && result[digit] == '0') result.erase(digit, 1);
  return result;
}

std::string DurationText(double seconds) {
  if (!std::isfinite(seconds)) return "unknown";
  if (seconds < 0) return absl::StrCat("-", DurationText(-seconds));
  if (seconds < 9.995) return Fixed(seconds, 2) + " s";
  if (seconds < 59.95) return Fixed(seconds, 1) + " s";
  const int64_t whole = std::llround(seconds);
  char text[64];
  if (whole < 3600) {
    std::snprintf(text, sizeof(text), "%d min %02d s", static_cast<int>(whole / 60),
                  static_cast<int>(whole % 60));
    return text;
  }
  const int64_t minutes = (whole + 30) / 60;
  std::snprintf(text, sizeof(text), " h %02d min", static_cast<int>(minutes % 60));
  return WithThousands(minutes / 60) + text;
}

std::string PadLeft(const std::string& text, size_t width) {
  return text.size() >= width ? text : std::string(width - text.size(), ' ') + text;
}

std::string PadRight(const std::string& text, size_t width) {
  return text.size() >= width ? text : text + std::string(width - text.size(), ' ');
}

}  // namespace muster::runtime
