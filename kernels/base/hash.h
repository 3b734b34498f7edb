#pragma once
// 64-bit content hash (XXH3 of the xxHash library): file payloads, names, configurations.
// Not cryptographic: it finds damage, not malice.
#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <string_view>

namespace muster::kernels {

uint64_t Hash64(const void* data, size_t bytes, uint64_t seed = 0);
inline uint64_t Hash64(std::string_view text) { return Hash64(text.data(), text.size()); }

// The same of bytes that come in parts.
class Hasher64 {
 public:
  Hasher64();
  ~Hasher64();
  void Update(const void* data, size_t bytes);
  uint64_t Digest() const;

 private:
  struct State;
  std::unique_ptr<State> state_;
};

// Sixteen lower-case hexadecimal digits.
std::string HexDigits(uint64_t value);

}  // namespace muster::kernels
