#include "parallel/dp/bucket_digests.h"

#include "kernels/ops/digest.h"

namespace muster::parallel {

using kernels::DigestRange;
using kernels::DType;
using kernels::Lifetime;

BucketDigests::BucketDigests(const BucketLayout& layout, kernels::ArenaPlan& plan)
    : layout_(layout), table_memory_(layout.buckets.size()), tables_(layout.buckets.size()) {
  for (size_t b = 0; b < layout.buckets.size(); ++b) {
    first_.push_back(static_cast<int64_t>(parameters_.size()));
    std::vector<int64_t> counts;
    for (const BucketSlice& slice : layout.buckets[b].slices) {
      parameters_.push_back(slice.parameter);
      counts.push_back(slice.count);
    }
    plan.Add(&table_memory_[b], layout.buckets[b].name + " ranges to digest", DType::kUInt8,
             {kernels::RangeTableBytes(sizeof(DigestRange), counts)}, Lifetime::kPersistent);
  }
  plan.Add(&sums_, "digests of parameters", DType::kInt64,
           {static_cast<int64_t>(parameters_.size())}, Lifetime::kPersistent);
}

void BucketDigests::Clear(kernels::StreamView compute) { kernels::FillZeroAsync(sums_, compute); }

void BucketDigests::Add(int bucket, const kernels::TensorView& whole, kernels::StreamView compute) {
  const auto index = static_cast<size_t>(bucket);
  const std::vector<BucketSlice>& slices = layout_.buckets[index].slices;
  if (tables_[index].num_ranges == 0) {
    std::vector<DigestRange> ranges;
    for (const BucketSlice& slice : slices) ranges.push_back({slice.offset, slice.count});
    tables_[index] = kernels::WriteRangeTable(ranges, table_memory_[index], compute);
  }
  const int64_t begin = first(bucket), end = begin + static_cast<int64_t>(slices.size());
  kernels::Digest({.x = whole, .table = tables_[index], .out = sums_.Slice(0, begin, end)},
                  compute);
}

}  // namespace muster::parallel
