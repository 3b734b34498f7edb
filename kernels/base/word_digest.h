#pragma once
// A 64-bit digest of bytes that threads may add up in any order: over the little-endian 4-byte
// words of a range (what the last one lacks is zero)
//   digest = sum of word(i) * Key(i) mod 2^64,  every Key(i) odd,
// a multiply-sum hash (Dietzfelbinger, "Universal hashing and k-wise independent random variables
// via integer arithmetic without primes", STACS 1996) with fixed keys. An odd number has an inverse
// mod 2^64, so a change within one word is always seen; others go unseen once in 2^33 or less: the
// top bit of a word meets 33 bits of its key. It finds damage, not malice.
//
// Being linear, it may be taken of parts of words, and of several arrays with odd factors.
#include <cstdint>
#include <cstring>

#include "kernels/base/host_device.h"

namespace muster::kernels {

// Of words 2 i and 2 i + 1.
struct DigestKeys {
  uint64_t even, odd;
};
MUSTER_HOST_DEVICE inline DigestKeys DigestKeysOf(uint64_t i) {
  const uint64_t spread = (i + 1) * 0x9e3779b97f4a7c15ull;  // 2^64 / golden ratio
  const uint64_t mixed = spread ^ (spread >> 32);
  return {mixed | 1, (mixed << 32) | (mixed >> 32) | 1};
}

// Of element i of an array of 4- or 2-byte elements.
MUSTER_HOST_DEVICE inline uint64_t DigestTerm(uint64_t i, uint32_t bits) {
  const DigestKeys keys = DigestKeysOf(i / 2);
  return bits * (i % 2 == 0 ? keys.even : keys.odd);
}
MUSTER_HOST_DEVICE inline uint64_t DigestTerm(uint64_t i, uint16_t bits) {
  return DigestTerm(i / 2, static_cast<uint32_t>(bits) << (16 * (i % 2)));
}
// Of words 2 i and 2 i + 1, in one piece. Each of them may be a sum of a few words.
MUSTER_HOST_DEVICE inline uint64_t DigestTerm(const DigestKeys& keys, uint64_t even, uint64_t odd) {
  return even * keys.even + odd * keys.odd;
}

// Of memory on the host, from byte 8 * `first_pair` of its range on.
inline uint64_t WordDigest(const void* data, int64_t bytes, uint64_t first_pair = 0) {
  const char* from = static_cast<const char*>(data);
  const int64_t pairs = bytes / 8;
  uint64_t digest = 0, pair = 0;
  for (int64_t i = 0; i < pairs; ++i) {
    std::memcpy(&pair, from + 8 * i, sizeof(pair));
    digest += DigestTerm(DigestKeysOf(first_pair + static_cast<uint64_t>(i)), pair & 0xffffffffu,
                         pair >> 32);
  }
  if (pairs * 8 == bytes) return digest;
  pair = 0;
  std::memcpy(&pair, from + 8 * pairs, static_cast<size_t>(bytes - 8 * pairs));
  return digest + DigestTerm(DigestKeysOf(first_pair + static_cast<uint64_t>(pairs)),
                             pair & 0xffffffffu, pair >> 32);
}

}  // namespace muster::kernels
