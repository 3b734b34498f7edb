#include "parallel/optim/sharded_adamw.h"

#include <algorithm>

#include "kernels/device/span.h"
#include "kernels/ops/cast.h"

namespace muster::parallel {
namespace {

using kernels::TensorView;

// The elements of a bucket that this rank updates.
struct Range {
  int64_t begin, end;
};
Range OwnedRange(const Bucket& bucket, int zero_level) {
  if (zero_level == 0) return {0, bucket.num_elements};
  return {bucket.shard_begin(), bucket.shard_begin() + bucket.shard_elements()};
}

Range Intersect(const BucketSlice& slice, Range owned) {
  return {std::max(slice.offset, owned.begin), std::min(slice.offset + slice.count, owned.end)};
}

}  // namespace

ShardedAdamW::ShardedAdamW(const BucketStorage& storage, const ParameterList& parameters,
                           int zero_level, AdamWOptions options, kernels::ArenaPlan& plan)
    : storage_(storage),
      parameters_(parameters),
      zero_level_(zero_level),
      options_(options),
      states_(storage.layout().buckets.size()) {
  const kernels::DType dtype = storage.gradient_dtype();
  std::vector<int64_t> counts;
  for (size_t b = 0; b < states_.size(); ++b) {
    const Bucket& bucket = storage.layout().buckets[b];
    const Range owned = OwnedRange(bucket, zero_level);
    const auto add = [&](TensorView* view, const char* what) {
      plan.Add(view, bucket.name + what, dtype, {owned.end - owned.begin},
               kernels::Lifetime::kPersistent);
    };
    if (storage.weight_dtype() != dtype) add(&states_[b].master, " master weights");
    add(&states_[b].moment1, " first moments");
    add(&states_[b].moment2, " second moments");
    for (const BucketSlice& slice : bucket.slices) {
      const Range range = Intersect(slice, owned);
      if (range.begin < range.end) counts.push_back(range.end - range.begin);
    }
  }
  plan.Add(&table_memory_, "ranges of AdamW", kernels::DType::kUInt8,
           {kernels::RangeTableBytes(sizeof(kernels::AdamWRange), counts)},
           kernels::Lifetime::kPersistent);
  if (!options.digests) return;
  plan.Add(&digests_, "digests of the state", kernels::DType::kInt64,
           {static_cast<int64_t>(counts.size()), 2}, kernels::Lifetime::kPersistent);
  plan.Add(&no_scale_, "no update", dtype, {1}, kernels::Lifetime::kPersistent);
}

TensorView ShardedAdamW::OwnedWeights(int bucket) const {
  return zero_level_ == 0 ? storage_.weights(bucket) : storage_.weight_shard(bucket);
}

TensorView ShardedAdamW::Master(int bucket) const {
  const TensorView& master = states_[static_cast<size_t>(bucket)].master;
  return master ? master : OwnedWeights(bucket);
}

void ShardedAdamW::ReadWeights(kernels::StreamView compute) {
  for (size_t b = 0; b < states_.size(); ++b) {
    if (!states_[b].master) continue;
    kernels::Cast({.x = OwnedWeights(static_cast<int>(b)), .out = states_[b].master}, compute);
  }
}

std::vector<kernels::AdamWRange> ShardedAdamW::Ranges() const {
  std::vector<kernels::AdamWRange> ranges;
  for (size_t b = 0; b < states_.size(); ++b) {
    const int bucket = static_cast<int>(b);
    const Range owned = OwnedRange(storage_.layout().buckets[b], zero_level_);
    const TensorView weights = OwnedWeights(bucket), master = Master(bucket);
    const TensorView gradients =
        zero_level_ == 0 ? storage_.gradients(bucket) : storage_.gradient_shard(bucket);
    for (const BucketSlice& slice : storage_.layout().buckets[b].slices) {
      const Range range = Intersect(slice, owned);
      if (range.begin >= range.end) continue;
      const auto part = [&](const TensorView& view) {
        return view.Slice(0, range.begin - owned.begin, range.end - owned.begin).data;
      };
      const bool decays = parameters_[slice.parameter].weight_decay;
      ranges.push_back({.grad = part(gradients),
                        .master = part(master),
                        .moment1 = part(states_[b].moment1),
                        .moment2 = part(states_[b].moment2),
                        .weight = part(weights),
                        .count = range.end - range.begin,
                        .weight_decay = decays ? options_.weight_decay : 0.0f});
    }
  }
  return ranges;
}

void ShardedAdamW::Update(const kernels::AdamWArgs& args, kernels::StreamView compute) {
  const kernels::Span span(compute, "adamw", kOptimizer);
  if (table_.num_ranges == 0) {
    table_ = kernels::WriteRangeTable(Ranges(), table_memory_, compute);
  }
  if (args.digests) kernels::FillZeroAsync(args.digests, compute);
  kernels::AdamWArgs whole = args;
  whole.table = table_;
  whole.weight_dtype = storage_.weight_dtype();
  kernels::AdamW(whole, compute);
}

void ShardedAdamW::Step(double learning_rate, int64_t update, const GradientFacts& facts,
                        kernels::StreamView compute, bool digests) {
  Update({.grad_scale = facts.scale,
          .learning_rate = static_cast<float>(learning_rate),
          .beta1 = options_.beta1,
          .beta2 = options_.beta2,
          .epsilon = options_.epsilon,
          .step = update,
          .digests = digests ? digests_ : TensorView()},
         compute);
}

void ShardedAdamW::Digest(kernels::StreamView compute) {
  Update({.grad_scale = no_scale_, .digests = digests_}, compute);
}

std::vector<OptimizerSlice> ShardedAdamW::Slices() const {
  std::vector<OptimizerSlice> slices;
  for (size_t b = 0; b < states_.size(); ++b) {
    const Bucket& bucket = storage_.layout().buckets[b];
    const Range owned = OwnedRange(bucket, zero_level_);
    const TensorView master = Master(static_cast<int>(b));
    for (const BucketSlice& slice : bucket.slices) {
      const Range range = Intersect(slice, owned);
      if (range.begin >= range.end) continue;
      const int64_t begin = range.begin - owned.begin, end = range.end - owned.begin;
      slices.push_back({slice.parameter, range.begin - slice.offset, range.end - range.begin,
                        OwnedWeights(static_cast<int>(b)).Slice(0, begin, end),
                        master.Slice(0, begin, end), states_[b].moment1.Slice(0, begin, end),
                        states_[b].moment2.Slice(0, begin, end)});
    }
  }
  return slices;
}

}  // namespace muster::parallel
