#include "runtime/checkpoint/finite.h"

#include <algorithm>

namespace muster::runtime {
namespace {

// An IEEE number is not finite iff all bits of its exponent are set. Looks at blocks without
// leaving them early, so that the compiler can use vector instructions.
template <typename Bits>
std::optional<int64_t> First(const void* data, Bits exponent, int64_t count) {
  constexpr int64_t kBlock = 4096;
  const Bits* values = static_cast<const Bits*>(data);
  for (int64_t begin = 0; begin < count; begin += kBlock) {
    const int64_t end = std::min(begin + kBlock, count);
    unsigned found = 0;
    for (int64_t i = begin; i < end; ++i) found |= (values[i] & exponent) == exponent ? 1u : 0u;
    if (found == 0) continue;
    for (int64_t i = begin; i < end; ++i) {
      if ((values[i] & exponent) == exponent) return i;
    }
  }
  return std::nullopt;
}

}  // namespace

std::optional<int64_t> FirstNonFinite(const void* data, kernels::DType dtype, int64_t count) {
  switch (dtype) {
    case kernels::DType::kFloat32:
      return First<uint32_t>(data, 0x7f800000u, count);
    case kernels::DType::kFloat64:
      return First<uint64_t>(data, 0x7ff0000000000000u, count);
    case kernels::DType::kBFloat16:
      return First<uint16_t>(data, 0x7f80u, count);
    default:
      return std::nullopt;
  }
}

}  // namespace muster::runtime
