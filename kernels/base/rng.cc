#include "kernels/base/rng.h"

#include <bit>

#include "kernels/base/hash.h"

namespace muster::kernels {

PhiloxKey MakePhiloxKey(uint64_t seed, std::string_view name) {
  const uint64_t mixed = Hash64(name.data(), name.size(), seed);
  return {static_cast<uint32_t>(mixed), static_cast<uint32_t>(mixed >> 32)};
}

uint64_t PermuteIndex(PhiloxKey key, uint64_t index, uint64_t n) {
  if (n <= 1) return 0;
  // The smallest even number of bits that covers [0, n): at most 4n values, so cycle walking
  // takes fewer than four rounds on average.
  const int half_bits = (std::bit_width(n - 1) + 1) / 2;
  const uint64_t mask = (uint64_t{1} << half_bits) - 1;
  uint64_t value = index;
  do {
    uint64_t left = value >> half_bits, right = value & mask;
    for (uint64_t round = 0; round < 4; ++round) {
      const PhiloxBlock block = Philox(key, right, round + 1);
      const uint64_t mixed = (uint64_t{block.v[1]} << 32) | block.v[0];
      const uint64_t next = left ^ (mixed & mask);
      left = right;
      right = next;
    }
    value = (left << half_bits) | right;
  } while (value >= n);
  return value;
}

}  // namespace muster::kernels
