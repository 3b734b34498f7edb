#include "runtime/checkpoint/ranges.h"

#include <algorithm>

#include "kernels/base/error.h"

namespace muster::runtime {

using kernels::Shape;

LogicalRange LogicalRange::Whole(const Shape& shape) {
  LogicalRange range{shape, shape, shape, 0, shape.num_elements()};
  for (int dim = 0; dim < shape.rank(); ++dim) range.slice_begin.set(dim, 0);
  return range;
}

std::string LogicalRange::Problem() const {
  if (slice_begin.rank() != global_shape.rank() || slice_size.rank() != global_shape.rank()) {
    return "its slice has another rank than its shape " + global_shape.ToString();
  }
  for (int dim = 0; dim < global_shape.rank(); ++dim) {
    // Written so that no sum can overflow.
    if (slice_size[dim] < 0 || slice_size[dim] > global_shape[dim] || slice_begin[dim] < 0 ||
        slice_begin[dim] > global_shape[dim] - slice_size[dim]) {
      return "slice " + slice_begin.ToString() + " + " + slice_size.ToString() + " leaves shape " +
             global_shape.ToString();
    }
  }
  const int64_t elements = slice_size.num_elements();
  if (first < 0 || count < 0 || count > elements || first > elements - count) {
    return "elements " + std::to_string(first) + " + " + std::to_string(count) +
           " leave its slice of " + std::to_string(elements);
  }
  return "";
}

std::vector<ElementRun> RunsOf(const LogicalRange& range) {
  MUSTER_CHECK(range.Problem().empty()) << range.Problem();
  if (range.count == 0) return {};  // products of the other dims need not fit then
  const Shape &shape = range.global_shape, &size = range.slice_size;
  // The dims from `inner` on form blocks that are contiguous in the global tensor: all but the
  // first of them are whole.
  int inner = shape.rank();
  int64_t block = 1;
  while (inner > 0) {
    --inner;
    block *= size[inner];
    if (size[inner] != shape[inner]) break;
  }
  std::vector<ElementRun> runs;
  const int64_t end = range.first + range.count;
  for (int64_t at = range.first; at < end;) {
    // The global index of the block's first element: its coordinates, from the innermost dim out.
    int64_t global = 0, stride = 1, outer = at / block;
    for (int dim = shape.rank() - 1; dim >= 0; --dim) {
      int64_t coordinate = range.slice_begin[dim];
      if (dim < inner) {
        coordinate += outer % size[dim];
        outer /= size[dim];
      }
      global += coordinate * stride;
      stride *= shape[dim];
    }
    const int64_t within = at % block, count = std::min(block - within, end - at);
    runs.push_back({global + within, at - range.first, count});
    at += count;
  }
  return runs;
}

}  // namespace muster::runtime
