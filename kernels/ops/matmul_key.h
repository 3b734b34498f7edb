#pragma once
// What a library's algorithm for a matrix product is chosen by, and what it is described by. The
// key is a function of the arguments' shapes, strides, dtypes and alignments, never of their
// values, so that it is known before there is any memory (kernels/ops/matmul_notes.h).
#include <compare>
#include <cstdint>
#include <functional>
#include <string>

#include "absl/status/status.h"
#include "kernels/ops/matmul.h"

namespace muster::kernels {

// Row strides in elements; alignments in bytes, at most 16.
struct MatmulKey {
  int64_t m = 0, n = 0, k = 0;
  int64_t a_stride = 0, b_stride = 0, c_stride = 0;
  int a_alignment = 16, b_alignment = 16, c_alignment = 16;
  DType storage = DType::kFloat32, result = DType::kFloat32;
  bool a_transposed = false, b_transposed = false, bias = false, accumulate = false;
  auto operator<=>(const MatmulKey&) const = default;

  static MatmulKey Of(const MatmulArgs& args);
  std::string ToString() const;  // one word
  double flops() const;
  // Of an operand as it is stored, rows and the gaps between them.
  int64_t a_bytes() const, b_bytes() const, c_bytes() const;
};

// cuBLASLt's description of an algorithm: valid for one version of the library.
struct MatmulAlgorithm {
  uint64_t data[8] = {};
  friend bool operator==(const MatmulAlgorithm&, const MatmulAlgorithm&) = default;
};

// Smaller products take the library's first proposal, which is the same at each start.
constexpr double kMinSearchedFlops = 2e9;
inline bool IsSearched(const MatmulKey& key) { return key.flops() >= kMinSearchedFlops; }

// The products that CUDA runs for one that was asked for, in order, until one fails. bf16 products
// whose contiguous dims are no multiple of 8 elements (16 bytes) run at a sixth of the speed,
// however far apart their rows are: GPT-2's vocabulary of 50,257 is one. So such a dim, if it is
// long, is cut into a part that is a multiple and a tail of less than 8; a cut sum adds the bulk
// onto its tail.
absl::Status ForEachPart(const MatmulArgs& args,
                         const std::function<absl::Status(const MatmulArgs&)>& run);

}  // namespace muster::kernels
