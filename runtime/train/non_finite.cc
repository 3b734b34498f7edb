#include "runtime/train/non_finite.h"

#include <algorithm>
#include <array>
#include <optional>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "runtime/checkpoint/finite.h"
#include "runtime/train/host_copy.h"

namespace muster::runtime {
namespace {

// Elements of a bucket; `shared`: other ranks have added to them.
struct Part {
  int64_t begin, end;
  bool shared;
};

// [begin, end), cut where this rank's shard begins and ends.
std::array<Part, 3> PartsOf(const parallel::Bucket& bucket, int64_t begin, int64_t end,
                            bool reduced_in_place) {
  const bool alone = bucket.group_size * bucket.copies == 1;
  const bool own = alone || !reduced_in_place;
  const int64_t first = std::clamp(bucket.shard_begin(), begin, std::max(begin, end));
  const int64_t last =
      std::clamp(bucket.shard_begin() + bucket.shard_elements(), first, std::max(first, end));
  return {{{begin, first, !own}, {first, last, !alone}, {last, end, !own}}};
}

// The first in [begin, end).
std::optional<int64_t> NextNonFinite(const void* data, kernels::DType dtype, int64_t begin,
                                     int64_t end) {
  if (begin >= end) return std::nullopt;
  const char* from = static_cast<const char*>(data) + begin * kernels::SizeOf(dtype);
  const std::optional<int64_t> found = FirstNonFinite(from, dtype, end - begin);
  return found ? std::optional(begin + *found) : std::nullopt;
}

// "tensor element own", or "-".
std::string Encode(const NonFiniteGradient& found) {
  if (found.tensor.empty()) return "-";
  return absl::StrCat(found.tensor, " ", found.element, " ", found.is_own ? 1 : 0);
}

NonFiniteGradient Decode(int rank, const std::string& text) {
  NonFiniteGradient found{.rank = rank};
  const std::vector<std::string> words = absl::StrSplit(text, ' ');
  if (words.size() != 3 || !absl::SimpleAtoi(words[1], &found.element)) return found;
  found.tensor = words[0];
  found.is_own = words[2] == "1";
  return found;
}

absl::StatusOr<std::vector<NonFiniteGradient>> OfAll(const NonFiniteGradient& mine,
                                                     parallel::World& world) {
  ASSIGN_OR_RETURN(const std::vector<std::string> texts, world.GatherText(Encode(mine)));
  std::vector<NonFiniteGradient> all;
  for (size_t rank = 0; rank < texts.size(); ++rank) {
    all.push_back(Decode(static_cast<int>(rank), texts[rank]));
  }
  return all;
}

// The ranks that are known to have computed one; empty if of none that is known.
std::string Computed(const std::vector<NonFiniteGradient>& all) {
  std::string own;
  for (const NonFiniteGradient& found : all) {
    if (found.tensor.empty() || !found.is_own) continue;
    absl::StrAppend(&own, own.empty() ? "" : "; ", "rank ", found.rank,
                    " computed it: ", found.tensor, ", element ", found.element);
  }
  return own;
}

}  // namespace

absl::StatusOr<NonFiniteGradient> FindNonFinite(const parallel::BucketStorage& storage,
                                                kernels::StreamView compute) {
  NonFiniteGradient reduced;  // the first one in a part that others have added to
  std::vector<char> buffer;
  const parallel::BucketLayout& layout = storage.layout();
  for (size_t b = 0; b < layout.buckets.size(); ++b) {
    const parallel::Bucket& bucket = layout.buckets[b];
    const int index = static_cast<int>(b);
    const kernels::TensorView& held = storage.held_gradients(index);
    const int64_t base = storage.shards_gradients(index) ? bucket.shard_begin() : 0;
    ASSIGN_OR_RETURN(const void* data, OnHost(held, compute, &buffer));
    for (const parallel::BucketSlice& slice : bucket.slices) {
      const std::string& name = layout.parameter_names[static_cast<size_t>(slice.parameter)];
      const int64_t begin = std::max(slice.offset, base);
      const int64_t end = std::min(slice.offset + slice.count, base + held.num_elements());
      for (const Part& part : PartsOf(bucket, begin, end, storage.zero_level() == 0)) {
        const auto at = NextNonFinite(data, held.dtype, part.begin - base, part.end - base);
        if (!at) continue;
        const NonFiniteGradient found{0, name, base + *at - slice.offset, !part.shared};
        if (!part.shared) return found;
        if (reduced.tensor.empty()) reduced = found;
      }
    }
  }
  return reduced;
}

NonFiniteReport DescribeNonFinite(const std::vector<NonFiniteGradient>& all, int zero_level) {
  const std::string own = Computed(all);
  if (!own.empty()) return {"a gradient is not finite; " + own, true};
  std::optional<NonFiniteGradient> shared;
  int num_shared = 0;
  for (const NonFiniteGradient& found : all) {
    if (found.tensor.empty()) continue;
    ++num_shared;
    if (!shared) shared = found;
  }
  if (!shared) {
    return {"the gradient's norm is not finite, though every element is: it overflows", true};
  }
  const std::string where = absl::StrCat(shared->tensor, ", element ", shared->element);
  // With ZeRO 1 a contribution of another rank would still be seen on that rank.
  if (num_shared == 1 && zero_level == 1) {
    return {absl::StrCat("a gradient is not finite; rank ", shared->rank, " computed it: ", where),
            true};
  }
  return {absl::StrCat("a gradient is not finite: ", where), false};
}

absl::StatusOr<NonFiniteReport> NameNonFinite(const parallel::BucketStorage& storage,
                                              kernels::StreamView compute, parallel::World& world) {
  ASSIGN_OR_RETURN(const NonFiniteGradient mine, FindNonFinite(storage, compute));
  ASSIGN_OR_RETURN(const std::vector<NonFiniteGradient> all, OfAll(mine, world));
  return DescribeNonFinite(all, storage.zero_level());
}

absl::Status NonFiniteSearch::Look(int bucket, const kernels::TensorView& whole,
                                   kernels::StreamView compute) {
  if (!found_.tensor.empty()) return absl::OkStatus();
  std::vector<char> buffer;
  ASSIGN_OR_RETURN(const void* data, OnHost(whole, compute, &buffer));
  for (const parallel::BucketSlice& slice : layout_.buckets[static_cast<size_t>(bucket)].slices) {
    const auto at = NextNonFinite(data, whole.dtype, slice.offset, slice.offset + slice.count);
    if (!at) continue;
    found_ = {.tensor = layout_.parameter_names[static_cast<size_t>(slice.parameter)],
              .element = *at - slice.offset,
              .is_own = true};
    break;
  }
  return absl::OkStatus();
}

absl::StatusOr<std::string> NonFiniteSearch::Describe(parallel::World& world) const {
  ASSIGN_OR_RETURN(const std::vector<NonFiniteGradient> all, OfAll(found_, world));
  const std::string own = Computed(all);
  if (!own.empty()) return own;
  return std::string(
      "the gradients of every rank are finite: not weights and tokens made it, but a computation "
      "that went wrong once, or the sum over ranks");
}

}  // namespace muster::runtime
