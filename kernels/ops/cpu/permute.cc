#include "kernels/ops/permute.h"

#include <algorithm>
#include <cstring>
#include <numeric>

#include "kernels/ops/cpu/dtype_switch.h"

namespace muster::kernels::cpu {
namespace {

constexpr int32_t kDropped = -1;

// Marks each choice in `rows` as kept (0) or dropped (-1) and counts the kept ones. The group's own
// counts live in `in_group`, which the caller overwrites later.
int64_t ApplyCapacity(const SortByExpertArgs& args, int64_t* counts, int64_t* in_group) {
  const int64_t num_tokens = args.experts.shape[0], top_k = args.experts.shape[1];
  const int64_t num_experts = args.counts.shape[0];
  const int32_t* experts = args.experts.as<int32_t>();
  int32_t* rows = args.rows.as<int32_t>();
  std::fill_n(counts, num_experts, 0);
  int64_t dropped = 0;
  for (int64_t token = 0; token < num_tokens; ++token) {
    const bool new_group = args.capacity > 0 && token % args.group_tokens == 0;
    if (new_group) std::fill_n(in_group, num_experts, 0);
    for (int64_t choice = token * top_k; choice < (token + 1) * top_k; ++choice) {
      const int32_t expert = experts[choice];
      MUSTER_CHECK(expert >= kDropped && expert < num_experts)
          << "SortByExpert: choice " << choice % top_k << " of token " << token << " is expert "
          << expert << " of " << num_experts;
      const bool kept =
          expert != kDropped && (args.capacity == 0 || in_group[expert]++ < args.capacity);
      rows[choice] = kept ? 0 : kDropped;
      kept ? ++counts[expert] : ++dropped;
    }
  }
  return dropped;
}

// offsets[e + 1] = sum of counts up to e - 1: where expert e's first row goes. A counting sort that
// advances offsets[e + 1] for every row it places leaves the true offsets behind.
void StartCursors(const int64_t* counts, int64_t* offsets, int64_t num_experts) {
  offsets[0] = 0;
  int64_t start = 0;
  for (int64_t e = 0; e < num_experts; ++e) {
    offsets[e + 1] = start;
    start += counts[e];
  }
}

template <typename T>
void CombineRow(const CombineRowsArgs& args, int64_t token) {
  using A = Accumulator<T>;
  constexpr int64_t kBlock = 512;
  const int64_t dim = args.x.shape[1], top_k = args.rows.shape[1];
  const int32_t* rows = args.rows.as<int32_t>() + token * top_k;
  T* out = args.out.as<T>() + token * dim;
  A sums[kBlock];
  for (int64_t begin = 0; begin < dim; begin += kBlock) {
    const int64_t count = std::min(kBlock, dim - begin);
    std::fill_n(sums, count, A{0});
    for (int64_t j = 0; j < top_k; ++j) {
      if (rows[j] == kDropped) continue;
      const T* x = args.x.as<T>() + rows[j] * dim + begin;
      for (int64_t d = 0; d < count; ++d) sums[d] += static_cast<A>(x[d]);
    }
    if (args.accumulate) {
      for (int64_t d = 0; d < count; ++d) sums[d] += static_cast<A>(out[begin + d]);
    }
    for (int64_t d = 0; d < count; ++d) out[begin + d] = static_cast<T>(sums[d]);
  }
}

void CheckRow(const char* op, int64_t row, int64_t num_rows) {
  MUSTER_CHECK(row >= kDropped && row < num_rows)
      << op << ": row " << row << " is outside the planned bound of " << num_rows << " rows";
}

}  // namespace

void SortByExpert(const SortByExpertArgs& args) {
  CheckArgs(args);
  int64_t* counts = args.counts.as<int64_t>();
  int64_t* offsets = args.offsets.as<int64_t>();
  *args.dropped.as<int64_t>() = ApplyCapacity(args, counts, offsets);
  StartCursors(counts, offsets, args.counts.shape[0]);
  const int32_t* experts = args.experts.as<int32_t>();
  int32_t* rows = args.rows.as<int32_t>();
  for (int64_t choice = 0; choice < args.experts.num_elements(); ++choice) {
    if (rows[choice] == kDropped) continue;
    rows[choice] = static_cast<int32_t>(offsets[experts[choice] + 1]++);
  }
}

void DispatchRows(const DispatchRowsArgs& args) {
  CheckArgs(args);
  const int64_t top_k = args.rows.shape[1], num_rows = args.out.shape[0];
  const int64_t row_bytes = args.x.shape[1] * SizeOf(args.x.dtype);
  const int32_t* rows = args.rows.as<int32_t>();
  for (int64_t choice = 0; choice < args.rows.num_elements(); ++choice) {
    CheckRow("DispatchRows", rows[choice], num_rows);
    if (rows[choice] == kDropped) continue;
    std::memcpy(static_cast<char*>(args.out.data) + rows[choice] * row_bytes,
                static_cast<const char*>(args.x.data) + choice / top_k * row_bytes,
                static_cast<size_t>(row_bytes));
  }
}

void CombineRows(const CombineRowsArgs& args) {
  CheckArgs(args);
  for (int64_t choice = 0; choice < args.rows.num_elements(); ++choice) {
    CheckRow("CombineRows", args.rows.as<int32_t>()[choice], args.x.shape[0]);
  }
  SwitchStorage(args.x.dtype, [&](auto tag) {
    for (int64_t t = 0; t < args.rows.shape[0]; ++t) CombineRow<decltype(tag)>(args, t);
  });
}

void PermuteWeights(const PermuteWeightsArgs& args) {
  CheckArgs(args);
  SwitchAccumulator(args.values_R.dtype, [&](auto tag) {
    using A = decltype(tag);
    A* by_choice = args.values_Tk.as<A>();
    A* by_row = args.values_R.as<A>();
    for (int64_t choice = 0; choice < args.rows.num_elements(); ++choice) {
      const int32_t row = args.rows.as<int32_t>()[choice];
      CheckRow("PermuteWeights", row, args.values_R.shape[0]);
      if (args.to_tokens) {
        by_choice[choice] = row == kDropped ? A{0} : by_row[row];
      } else if (row != kDropped) {
        by_row[row] = by_choice[choice];
      }
    }
  });
}

void MergeSources(const MergeSourcesArgs& args) {
  CheckArgs(args);
  const int64_t num_sources = args.counts.shape[0], num_experts = args.counts.shape[1];
  const int64_t* counts = args.counts.as<int64_t>();
  int64_t* offsets = args.offsets.as<int64_t>();
  // As in StartCursors, with the counts of an expert summed over the sources.
  int64_t start = 0;
  offsets[0] = 0;
  for (int64_t e = 0; e < num_experts; ++e) {
    offsets[e + 1] = start;
    for (int64_t s = 0; s < num_sources; ++s) start += counts[s * num_experts + e];
  }
  MUSTER_CHECK(start <= args.index.shape[0])
      << "MergeSources: " << start << " rows arrived, the planned bound is " << args.index.shape[0];
  *args.row_count.as<int64_t>() = start;
  int32_t* index = args.index.as<int32_t>();
  for (int64_t s = 0; s < num_sources; ++s) {
    for (int64_t e = 0; e < num_experts; ++e) {
      for (int64_t i = 0; i < counts[s * num_experts + e]; ++i) {
        *index++ = static_cast<int32_t>(offsets[e + 1]++);
      }
    }
  }
}

void SumCounts(const SumCountsArgs& args) {
  CheckArgs(args);
  const int64_t num_ranks = args.counts.shape[0], num_experts = args.counts.shape[1];
  for (int64_t p = 0; p < num_ranks; ++p) {
    const int64_t* counts = args.counts.as<int64_t>() + p * num_experts;
    args.sums.as<int64_t>()[p] = std::accumulate(counts, counts + num_experts, int64_t{0});
  }
}

void GatherRows(const GatherRowsArgs& args) {
  CheckArgs(args);
  const int64_t bound = args.index.shape[0], row_count = *args.row_count.as<int64_t>();
  MUSTER_CHECK(row_count >= 0 && row_count <= bound)
      << "GatherRows: " << row_count << " rows, the planned bound is " << bound;
  const int64_t row_bytes = args.x.shape[1] * SizeOf(args.x.dtype);
  for (int64_t r = 0; r < row_count; ++r) {
    const int64_t mapped = args.index.as<int32_t>()[r];
    MUSTER_CHECK(mapped >= 0 && mapped < bound)
        << "GatherRows: index[" << r << "] = " << mapped << " is outside " << bound << " rows";
    const int64_t to = args.inverse ? r : mapped, from = args.inverse ? mapped : r;
    std::memcpy(static_cast<char*>(args.out.data) + to * row_bytes,
                static_cast<const char*>(args.x.data) + from * row_bytes,
                static_cast<size_t>(row_bytes));
  }
}

}  // namespace muster::kernels::cpu
