#pragma once
// Philox4x32-10, a counter-based generator (Salmon et al., "Parallel random numbers: as easy as
// 1, 2, 3", SC 2011). A value is a pure function of (key, counter), so weights, data order and
// noise depend on global names and indices only, never on the layout. Only integer arithmetic and
// exact scalings are used: CPU and CUDA give the same bits.
#include <cstdint>
#include <string_view>

#include "kernels/base/host_device.h"

namespace muster::kernels {

struct PhiloxKey {
  uint32_t lo = 0, hi = 0;
};
struct PhiloxBlock {
  uint32_t v[4];
};

// Key of a named stream of random values: the run's seed and, say, a parameter's global name.
PhiloxKey MakePhiloxKey(uint64_t seed, std::string_view name);

MUSTER_HOST_DEVICE inline PhiloxBlock Philox(PhiloxKey key, uint64_t counter_lo,
                                             uint64_t counter_hi = 0) {
  uint32_t c0 = static_cast<uint32_t>(counter_lo), c1 = static_cast<uint32_t>(counter_lo >> 32);
  uint32_t c2 = static_cast<uint32_t>(counter_hi), c3 = static_cast<uint32_t>(counter_hi >> 32);
  uint32_t k0 = key.lo, k1 = key.hi;
  for (int round = 0; round < 10; ++round) {
    const uint64_t p0 = 0xD2511F53ull * c0, p1 = 0xCD9E8D57ull * c2;
    const uint32_t n0 = static_cast<uint32_t>(p1 >> 32) ^ c1 ^ k0;
    const uint32_t n2 = static_cast<uint32_t>(p0 >> 32) ^ c3 ^ k1;
    c1 = static_cast<uint32_t>(p1);
    c3 = static_cast<uint32_t>(p0);
    c0 = n0;
    c2 = n2;
    k0 += 0x9E3779B9u;
    k1 += 0xBB67AE85u;
  }
  return {{c0, c1, c2, c3}};
}

// Uniform in [0, 1) with 24 random bits: exact in fp32.
MUSTER_HOST_DEVICE inline float UniformFromBits(uint32_t bits) {
  return static_cast<float>(bits >> 8) * (1.0f / 16777216.0f);
}

// Standard normal as the scaled sum of the block's eight 16-bit halves (Irwin-Hall). Mean 0 and
// variance 1 to rounding, excess kurtosis -0.15, range +-4.9: all that an initialiser needs, and,
// unlike Box-Muller, free of transcendental functions whose bits differ between devices.
MUSTER_HOST_DEVICE inline float NormalFromBlock(const PhiloxBlock& block) {
  int64_t sum = 0;
  for (int i = 0; i < 4; ++i) sum += (block.v[i] & 0xffffu) + (block.v[i] >> 16);
  const float centred = static_cast<float>(2 * sum - 8 * 65535);  // exact: below 2^24
  return centred * 9.3440618e-6f;  // 1 / sqrt(4 * 8 * (2^32 - 1) / 12)
}

// A bijection of [0, n) chosen by `key`: a 4-round Feistel network with cycle walking. Shuffles a
// data set without storing the order. Requires 0 <= index < n.
uint64_t PermuteIndex(PhiloxKey key, uint64_t index, uint64_t n);

}  // namespace muster::kernels
