// Places of experts in sequences that several ranks share are those of whole sequences.
#include "kernels/ops/capacity.h"

#include <gtest/gtest.h>

#include "kernels/ops/permute.h"
#include "tests/support/kernels/host_tensor.h"

namespace muster::kernels {
namespace {

constexpr DType kI32 = DType::kInt32, kI64 = DType::kInt64;
constexpr int64_t kSequences = 3, kTokens = 24, kTopK = 2, kExperts = 5;

// Choices in the order of sequences and positions; expert 0 is much in demand.
int Choice(int64_t token, int64_t j) {
  const int64_t first = token * token % 7 < 4 ? 0 : token % kExperts;
  return static_cast<int>(j == 0 ? first : (first + 1 + token % (kExperts - 1)) % kExperts);
}

// Whether each choice is kept, by the sort of whole sequences.
std::vector<bool> KeptOfWholeSequences(int64_t capacity) {
  const int64_t num_tokens = kSequences * kTokens;
  const Tensor experts = MakeTensor(kI32, {num_tokens, kTopK}),
               rows = MakeTensor(kI32, {num_tokens, kTopK});
  for (int64_t i = 0; i < num_tokens * kTopK; ++i) {
    SetValue(experts.view(), i, Choice(i / kTopK, i % kTopK));
  }
  const Tensor counts = MakeTensor(kI64, {kExperts}), offsets = MakeTensor(kI64, {kExperts + 1});
  const Tensor dropped = MakeTensor(kI64, {1});
  cpu::SortByExpert({experts.view(), rows.view(), counts.view(), offsets.view(), dropped.view(),
                     capacity, kTokens});
  std::vector<bool> kept;
  for (const double row : Values(rows.view())) kept.push_back(row >= 0);
  return kept;
}

// Positions of the tokens that rank `rank` of `ranks` has of every sequence.
std::vector<int64_t> Positions(int64_t rank, int64_t ranks) {
  if (ranks == 1) {
    std::vector<int64_t> all;
    for (int64_t p = 0; p < kTokens; ++p) all.push_back(p);
    return all;
  }
  const int64_t chunk = kTokens / (2 * ranks);
  std::vector<int64_t> positions;
  for (const int64_t c : {rank, 2 * ranks - 1 - rank}) {
    for (int64_t p = c * chunk; p < (c + 1) * chunk; ++p) positions.push_back(p);
  }
  return positions;
}

TEST(AdmitByCapacity, KeepsWhatWholeSequencesKeep) {
  for (const int64_t ranks : {1, 2, 3, 4}) {
    const int64_t run = kTokens / ranks, rows = kSequences * run;
    const Tensor all = MakeTensor(kI32, {ranks, rows, kTopK});
    for (int64_t rank = 0; rank < ranks; ++rank) {
      const std::vector<int64_t> positions = Positions(rank, ranks);
      for (int64_t row = 0; row < rows; ++row) {
        const int64_t token = row / run * kTokens + positions[static_cast<size_t>(row % run)];
        for (int64_t j = 0; j < kTopK; ++j) {
          SetValue(all.view(), (rank * rows + row) * kTopK + j, Choice(token, j));
        }
      }
    }
    for (const int64_t capacity : {1, 4, 9, 1000}) {
      const std::vector<bool> kept = KeptOfWholeSequences(capacity);
      if (capacity == 4) {
        EXPECT_GT(std::count(kept.begin(), kept.end(), false), 0);
      }
      for (int64_t rank = 0; rank < ranks; ++rank) {
        const std::vector<int64_t> positions = Positions(rank, ranks);
        for (const int64_t parts : {1, 2, 3}) {  // of the rank's rows, over a tensor group
          SCOPED_TRACE(testing::Message() << "rank " << rank << " of " << ranks << ", capacity "
                                          << capacity << ", " << parts << " parts");
          const int64_t num_rows = rows / parts;
          for (int64_t first = 0; first < rows; first += num_rows) {
            const Tensor out = MakeTensor(kI32, {num_rows, kTopK});
            cpu::AdmitByCapacity({.all = all.view(),
                                  .out = out.view(),
                                  .num_experts = kExperts,
                                  .sequence_tokens = kTokens,
                                  .capacity = capacity,
                                  .rank = rank,
                                  .first_row = first});
            for (int64_t i = 0; i < num_rows * kTopK; ++i) {
              const int64_t row = first + i / kTopK;
              const int64_t token = row / run * kTokens + positions[static_cast<size_t>(row % run)];
              const int64_t choice = token * kTopK + i % kTopK;
              ASSERT_EQ(GetValue(out.view(), i),
                        kept[static_cast<size_t>(choice)] ? Choice(token, i % kTopK) : -1)
                  << "token " << token << " choice " << i % kTopK;
            }
          }
        }
      }
    }
  }
}

TEST(SortByExpert, LeavesOutWhatWasDroppedBefore) {
  const Tensor experts = TensorOf(kI32, {3, 2}, {1, -1, 0, 1, -1, -1});
  const Tensor rows = MakeTensor(kI32, {3, 2}), counts = MakeTensor(kI64, {2});
  const Tensor offsets = MakeTensor(kI64, {3}), dropped = MakeTensor(kI64, {1});
  cpu::SortByExpert({experts.view(), rows.view(), counts.view(), offsets.view(), dropped.view()});
  EXPECT_EQ(Values(rows.view()), (std::vector<double>{1, -1, 0, 2, -1, -1}));
  EXPECT_EQ(Values(counts.view()), (std::vector<double>{1, 2}));
  EXPECT_EQ(GetValue(dropped.view(), 0), 3);
}

TEST(AdmitByCapacityDeathTest, WantsWholeSequences) {
  const Tensor all = MakeTensor(kI32, {2, 12, 1}), out = MakeTensor(kI32, {12, 1});
  EXPECT_DEATH(cpu::AdmitByCapacity({.all = all.view(),
                                     .out = out.view(),
                                     .num_experts = 2,
                                     .sequence_tokens = 10,
                                     .capacity = 1}),
               "of sequences of 10 tokens");
}

}  // namespace
}  // namespace muster::kernels
