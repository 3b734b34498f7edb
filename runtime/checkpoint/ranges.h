#pragma once
// Which elements of a logical (global) tensor a rank holds: a run of the row-major elements of its
// slice. Two layouts meet in the tensor's global row-major index, so what one stored any other
// reads.
#include <cstdint>
#include <string>
#include <vector>

#include "kernels/tensor/tensor.h"

namespace muster::runtime {

// All elements in one dim, as a range counts them.
inline kernels::TensorView Flat(const kernels::TensorView& tensor) {
  return tensor.Reshape({tensor.num_elements()});
}

struct LogicalRange {
  kernels::Shape global_shape;
  kernels::Shape slice_begin, slice_size;  // the box that the rank holds
  int64_t first = 0, count = 0;            // elements [first, first + count) of the box, row-major

  // All of a tensor.
  static LogicalRange Whole(const kernels::Shape& shape);
  // Empty, or the sentence about the rule that is broken: box within shape, range within box.
  std::string Problem() const;
};

// Elements that are contiguous both globally and locally.
struct ElementRun {
  int64_t global;  // first index in the global tensor
  int64_t local;   // the same element, counted from `first`
  int64_t count;
};

// Ascending in both; their counts sum to range.count. CHECKs that the range has no problem.
std::vector<ElementRun> RunsOf(const LogicalRange& range);

}  // namespace muster::runtime
