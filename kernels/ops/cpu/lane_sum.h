#pragma once
// Sums in a fixed order that g++ vectorises without being allowed to reorder floating-point sums:
// sixteen running sums, over i mod 16, which are added in pairs at the end.
#include <cstdint>

namespace muster::kernels::cpu {

constexpr int kLanes = 16;

// Adds lanes 8..15 to 0..7, and so on down to one.
template <typename A>
A FoldLanes(A (&lanes)[kLanes]) {
  for (int width = kLanes / 2; width > 0; width /= 2) {
    for (int lane = 0; lane < width; ++lane) lanes[lane] += lanes[lane + width];
  }
  return lanes[0];
}

// Sum of term(i) over 0 <= i < n. The term may also write what belongs to element i: it is called
// once for each i, but no order between elements may be relied on.
template <typename A, typename Term>
A LaneSum(int64_t n, Term term) {
  A lanes[kLanes] = {};
  int64_t i = 0;
  for (; i + kLanes <= n; i += kLanes) {
#pragma GCC ivdep
    for (int lane = 0; lane < kLanes; ++lane) lanes[lane] += term(i + lane);
  }
  for (int lane = 0; i < n; ++i, ++lane) lanes[lane] += term(i);
  return FoldLanes(lanes);
}

}  // namespace muster::kernels::cpu
