#include "parallel/dp/blank_gradients.h"

namespace muster::parallel {

using kernels::StreamView;
using kernels::TensorView;

namespace {

void FillZero(const TensorView& whole, int64_t begin, int64_t end, StreamView compute) {
  if (begin < end) kernels::FillZeroAsync(whole.Slice(0, begin, end), compute);
}

}  // namespace

BlankGradients::BlankGradients(const BucketStorage& storage)
    : storage_(storage), blank_(storage.layout().bucket_of.size()) {}

void BlankGradients::Begin(int bucket, const TensorView& whole, StreamView compute) {
  int64_t filled = 0;  // zeros, or a gradient that will be written, up to here
  for (const BucketSlice& slice : storage_.layout().buckets[static_cast<size_t>(bucket)].slices) {
    const bool blank = storage_.parameters()[slice.parameter].writes_gradient;
    blank_[static_cast<size_t>(slice.parameter)] = blank;
    if (!blank) continue;
    FillZero(whole, filled, slice.offset, compute);  // with the gaps between parameters
    filled = slice.offset + slice.count;
  }
  FillZero(whole, filled, whole.num_elements(), compute);
}

bool BlankGradients::TakeBlank(ParameterId id) {
  const bool blank = blank_[static_cast<size_t>(id)];
  blank_[static_cast<size_t>(id)] = false;
  return blank;
}

void BlankGradients::FillRest(int bucket, const TensorView& whole, StreamView compute) {
  for (const BucketSlice& slice : storage_.layout().buckets[static_cast<size_t>(bucket)].slices) {
    if (!TakeBlank(slice.parameter)) continue;
    FillZero(whole, slice.offset, slice.offset + slice.count, compute);
  }
}

}  // namespace muster::parallel
