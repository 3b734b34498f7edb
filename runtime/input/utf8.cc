#include "runtime/input/utf8.h"

namespace muster::runtime {
namespace {

unsigned ByteAt(std::string_view text, size_t at) { return static_cast<unsigned char>(text[at]); }
bool IsContinuation(unsigned byte) { return (byte & 0xC0) == 0x80; }

}  // namespace

int Utf8CharacterBytes(std::string_view text) {
  if (text.empty()) return 0;
  const unsigned first = ByteAt(text, 0);
  if (first < 0x80) return 1;
  // Table 3-7 of the Unicode standard: the range of the second byte depends on the first.
  int length = 0;
  unsigned low = 0x80, high = 0xBF;
  if (first >= 0xC2 && first <= 0xDF) {
    length = 2;
  } else if (first >= 0xE0 && first <= 0xEF) {
    length = 3;
    if (first == 0xE0) low = 0xA0;
    if (first == 0xED) high = 0x9F;
  } else if (first >= 0xF0 && first <= 0xF4) {
    length = 4;
    if (first == 0xF0) low = 0x90;
    if (first == 0xF4) high = 0x8F;
  } else {
    return 0;
  }
  if (text.size() < static_cast<size_t>(length)) return 0;
  if (ByteAt(text, 1) < low || ByteAt(text, 1) > high) return 0;
  for (int i = 2; i < length; ++i) {
    if (!IsContinuation(ByteAt(text, static_cast<size_t>(i)))) return 0;
  }
  return length;
}

InvalidUtf8 FindInvalidUtf8(std::string_view text) {
  InvalidUtf8 invalid;
  size_t at = 0;
  while (at < text.size()) {
    if (ByteAt(text, at) < 0x80) {  // most text
      ++at;
      continue;
    }
    const int length = Utf8CharacterBytes(text.substr(at, 4));
    if (length == 0) {
      if (invalid.count == 0) invalid.first = static_cast<int64_t>(at);
      ++invalid.count;
    }
    at += static_cast<size_t>(length == 0 ? 1 : length);
  }
  return invalid;
}

std::string ReplaceInvalidUtf8(std::string_view text) {
  std::string result;
  result.reserve(text.size());
  size_t at = 0;
  while (at < text.size()) {
    const int length = Utf8CharacterBytes(text.substr(at, 4));
    if (length == 0) {
      result += "\xEF\xBF\xBD";
      ++at;
    } else {
      result.append(text.substr(at, static_cast<size_t>(length)));
      at += static_cast<size_t>(length);
    }
  }
  return result;
}

size_t Utf8Boundary(std::string_view text, size_t limit) {
  if (limit >= text.size()) return text.size();
  size_t at = limit;
  while (at > 0 && limit - at < 4 && IsContinuation(ByteAt(text, at))) --at;
  return at == 0 || IsContinuation(ByteAt(text, at)) ? limit : at;
}

}  // namespace muster::runtime
