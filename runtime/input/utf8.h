#pragma once
// Which bytes of a text are no UTF-8 (RFC 3629: no overlong forms, no surrogates, up to U+10FFFF).
#include <cstdint>
#include <string>
#include <string_view>

namespace muster::runtime {

// Length of the valid UTF-8 character at the start of `text`: 1 to 4, or 0 if there is none.
int Utf8CharacterBytes(std::string_view text);

struct InvalidUtf8 {
  int64_t count = 0;   // bytes that belong to no character
  int64_t first = -1;  // position of the first one
};
InvalidUtf8 FindInvalidUtf8(std::string_view text);

// Puts U+FFFD in the place of each byte that belongs to no character.
std::string ReplaceInvalidUtf8(std::string_view text);

// The end of the last whole character that lies within the first `limit` bytes; `limit` itself
// where the text is shorter or is no UTF-8 there.
size_t Utf8Boundary(std::string_view text, size_t limit);

}  // namespace muster::runtime
