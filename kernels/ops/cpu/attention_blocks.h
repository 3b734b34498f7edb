#pragma once
// What the forward and the backward of CPU attention share: rows of one head, widened when stored
// as bf16; which keys a query sees; and row arithmetic over score blocks whose rows are padded to
// whole vectors.
#include <algorithm>
#include <cstdint>
#include <cstring>
#include <limits>
#include <type_traits>
#include <vector>

#include "kernels/ops/cpu/gemm.h"
#include "kernels/tensor/tensor.h"

namespace muster::kernels::cpu {

// A block of scores is [kQueryBlock, kKeyBlock]: small enough to stay in the second-level cache
// (two of them in the backward), large enough for the matrix products to run at their full rate.
constexpr int64_t kQueryBlock = 64, kKeyBlock = 512;
constexpr int64_t kScoreLanes = 16;  // kKeyBlock is a multiple: rows may be padded in place

// Rows of one head, [S, C] with contiguous channels.
template <typename T>
struct HeadRows {
  T* data = nullptr;
  int64_t stride = 0;  // elements from token to token
  HeadRows From(int64_t row) const { return {data + row * stride, stride}; }
};

// Head `head` of sequence `batch` of x [B, S, heads, C].
template <typename T>
HeadRows<T> Head(const TensorView& x, int64_t batch, int64_t head) {
  return {x.as<std::remove_const_t<T>>() + batch * x.strides[0] + head * x.shape[3], x.strides[1]};
}

template <typename A>
A* Reserve(std::vector<A>& scratch, int64_t size) {
  if (static_cast<int64_t>(scratch.size()) < size) scratch.resize(static_cast<size_t>(size));
  return scratch.data();
}

// The first `count` rows, contiguous and in the accumulator type. fp32 is copied too: products of
// rows that lie a packed token apart run at 80 % of the rate of contiguous ones.
template <typename T, typename A>
const A* Load(const HeadRows<T>& rows, int64_t count, int64_t channels, std::vector<A>& scratch) {
  A* out = Reserve(scratch, count * channels);
  for (int64_t i = 0; i < count; ++i) {
    const T* in = rows.data + i * rows.stride;
    for (int64_t c = 0; c < channels; ++c) out[i * channels + c] = static_cast<A>(in[c]);
  }
  return out;
}

// Writes `count` contiguous rows, rounded to T.
template <typename T, typename A>
void Store(const A* in, int64_t count, int64_t channels, const HeadRows<T>& out) {
  for (int64_t i = 0; i < count; ++i) {
    T* row = out.data + i * out.stride;
    for (int64_t c = 0; c < channels; ++c) row[c] = static_cast<T>(in[i * channels + c]);
  }
}

// Which keys a query sees, in rows of q and k.
struct Mask {
  bool causal = true;
  int64_t offset = 0;  // q_begin - k_begin
  int64_t num_keys = 0;
  // Keys [0, result) are seen by query row i.
  int64_t End(int64_t i) const {
    return causal ? std::clamp<int64_t>(offset + i + 1, 0, num_keys) : num_keys;
  }
};

// Puts -infinity behind the first n scores up to a whole number of lanes; returns that number.
template <typename A>
int64_t PadScores(A* scores, int64_t n) {
  const int64_t padded = (n + kScoreLanes - 1) / kScoreLanes * kScoreLanes;
  std::fill(scores + n, scores + padded, -std::numeric_limits<A>::infinity());
  return padded;
}

// The largest of n > 0 padded scores. Vectors by hand: g++ makes sixteen scalar maxima of a plain
// loop.
template <typename A>
A MaxOfPadded(const A* scores, int64_t n) {
  constexpr int kBytes = 32, kWidth = kBytes / sizeof(A), kVectors = kScoreLanes / kWidth;
  typedef A Vector __attribute__((vector_size(kBytes)));
  Vector largest[kVectors];
  std::memcpy(largest, scores, sizeof(largest));
  for (int64_t j = kScoreLanes; j < n; j += kScoreLanes) {
    for (int v = 0; v < kVectors; ++v) {
      Vector next;
      std::memcpy(&next, scores + j + v * kWidth, kBytes);
      largest[v] = next > largest[v] ? next : largest[v];
    }
  }
  A lanes[kScoreLanes];
  std::memcpy(lanes, largest, sizeof(lanes));
  return *std::max_element(lanes, lanes + kScoreLanes);
}

}  // namespace muster::kernels::cpu
