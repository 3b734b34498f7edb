#include "parallel/optim/grad_clip.h"

#include "kernels/device/span.h"
#include "parallel/comm/collectives.h"

namespace muster::parallel {

using kernels::DType;
using kernels::Lifetime;

GradientClip::GradientClip(const BucketStorage& storage, const Mesh& mesh, double max_norm,
                           kernels::ArenaPlan& plan)
    : storage_(storage), mesh_(mesh), max_norm_(max_norm) {
  plan.Add(&facts_.sum_of_squares, "gradient sum of squares", DType::kFloat64, {1},
           Lifetime::kPersistent);
  plan.Add(&facts_.norm, "gradient norm", DType::kFloat64, {1}, Lifetime::kPersistent);
  plan.Add(&facts_.scale, "gradient scale", storage.gradient_dtype(), {1}, Lifetime::kPersistent);
  std::vector<int64_t> counts;
  for (const Bucket& bucket : storage.layout().buckets) {
    if (bucket.tie != Tie::kCopy) counts.push_back(bucket.shard_elements() / bucket.copies);
  }
  plan.Add(&table_memory_, "ranges of the gradient norm", DType::kUInt8,
           {kernels::RangeTableBytes(sizeof(kernels::SquaresRange), counts)},
           Lifetime::kPersistent);
}

// Replicas divide a bucket by shards (and copies of a shard divide that), so over the world each of
// its elements is squared once; padding is zero. Weights that tensor ranks hold alike lie in
// buckets whose replicas are all ranks of the stage, so they too count once.
std::vector<kernels::SquaresRange> GradientClip::Ranges() const {
  std::vector<kernels::SquaresRange> ranges;
  for (size_t b = 0; b < storage_.layout().buckets.size(); ++b) {
    // A tied weight's gradient is the same on both of its stages.
    if (storage_.layout().buckets[b].tie == Tie::kCopy) continue;
    const kernels::TensorView counted = storage_.counted_gradients(static_cast<int>(b));
    ranges.push_back({counted.data, counted.num_elements()});
  }
  return ranges;
}

absl::Status GradientClip::Measure(kernels::StreamView compute) {
  const kernels::Span span(compute, "gradient norm", kOptimizer);
  kernels::FillZeroAsync(facts_.sum_of_squares, compute);
  if (table_.num_ranges == 0) {
    table_ = kernels::WriteRangeTable(Ranges(), table_memory_, compute);
  }
  kernels::SumOfSquares(
      {.table = table_, .dtype = storage_.gradient_dtype(), .out = facts_.sum_of_squares}, compute);
  RETURN_IF_ERROR(
      AllReduce(facts_.sum_of_squares, ReduceOp::kSum, mesh_.Group(Axis::kWorld), compute));
  kernels::ClipCoefficient({.sum_of_squares = facts_.sum_of_squares,
                            .norm = facts_.norm,
                            .scale = facts_.scale,
                            .max_norm = max_norm_},
                           compute);
  return absl::OkStatus();
}

}  // namespace muster::parallel
