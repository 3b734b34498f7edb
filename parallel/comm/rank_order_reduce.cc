#include "parallel/comm/rank_order_reduce.h"

#include <algorithm>
#include <type_traits>

#include "kernels/base/error.h"

namespace muster::parallel {
namespace {

using kernels::BFloat16;
using kernels::DType;

// Elements per pass: the accumulators and one source's block stay in the first-level cache.
constexpr int64_t kBlock = 1024;

template <typename T>
using AccumulatorIn = std::conditional_t<std::is_same_v<T, BFloat16>, float, T>;

template <typename Acc>
Acc Sum(Acc a, Acc b) {
  if constexpr (std::is_integral_v<Acc>) {
    using Unsigned = std::make_unsigned_t<Acc>;
    return static_cast<Acc>(static_cast<Unsigned>(a) + static_cast<Unsigned>(b));
  } else {
    return a + b;
  }
}

template <typename Acc>
Acc Max(Acc a, Acc b) {
  return (b > a || b != b) ? b : a;  // b != b: NaN, which must not get lost
}

template <typename T, ReduceOp op>
void Reduce(const void* const* sources, int num_sources, void* out, int64_t count) {
  using Acc = AccumulatorIn<T>;
  alignas(64) Acc block[kBlock];
  for (int64_t begin = 0; begin < count; begin += kBlock) {
    const int64_t size = std::min(kBlock, count - begin);
    const T* first = static_cast<const T*>(sources[0]) + begin;
    for (int64_t i = 0; i < size; ++i) block[i] = static_cast<Acc>(first[i]);
    for (int source = 1; source < num_sources; ++source) {
      const T* next = static_cast<const T*>(sources[source]) + begin;
      for (int64_t i = 0; i < size; ++i) {
        const Acc value = static_cast<Acc>(next[i]);
        block[i] = op == ReduceOp::kSum ? Sum(block[i], value) : Max(block[i], value);
      }
    }
    T* result = static_cast<T*>(out) + begin;
    for (int64_t i = 0; i < size; ++i) result[i] = static_cast<T>(block[i]);
  }
}

template <typename T>
void ReduceAs(ReduceOp op, const void* const* sources, int num_sources, void* out, int64_t count) {
  if (op == ReduceOp::kSum) {
    Reduce<T, ReduceOp::kSum>(sources, num_sources, out, count);
  } else {
    Reduce<T, ReduceOp::kMax>(sources, num_sources, out, count);
  }
}

}  // namespace

void ReduceInRankOrder(DType dtype, ReduceOp op, const void* const* sources, int num_sources,
                       void* out, int64_t count) {
  MUSTER_CHECK(num_sources > 0);
  switch (dtype) {
    case DType::kFloat32:
      return ReduceAs<float>(op, sources, num_sources, out, count);
    case DType::kBFloat16:
      return ReduceAs<BFloat16>(op, sources, num_sources, out, count);
    case DType::kFloat64:
      return ReduceAs<double>(op, sources, num_sources, out, count);
    case DType::kInt32:
      return ReduceAs<int32_t>(op, sources, num_sources, out, count);
    case DType::kInt64:
      return ReduceAs<int64_t>(op, sources, num_sources, out, count);
    case DType::kUInt8:
      break;
  }
  MUSTER_CHECK(false) << "no reduction of " << kernels::Name(dtype);
}

}  // namespace muster::parallel
