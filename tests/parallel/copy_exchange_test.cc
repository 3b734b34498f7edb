// Reduce-scatter and all-gather by copies into peers' memory: threads of this process stand for
// ranks, each with a queue of its own for a stream.
#include "parallel/comm/copy_exchange.h"

#include <gtest/gtest.h>

#include <chrono>
#include <cstring>
#include <random>
#include <thread>

#include "parallel/comm/rank_order_reduce.h"
#include "tests/support/kernels/host_tensor.h"

namespace muster::parallel {
namespace {

using kernels::DType;
using kernels::RandomTensor;
using kernels::Stream;
using kernels::StreamMode;
using kernels::Tensor;
using kernels::TensorView;
using kernels::Values;

constexpr int64_t kTargetElements = 4096, kStagingBytes = 1 << 16;

Stream MakeStream(const std::string& name) {
  auto stream = Stream::Create({}, StreamMode::kQueue, name);
  MUSTER_CHECK_OK(stream.status());
  return *std::move(stream);
}

// The memory of all ranks of a group, and an exchange for each.
class Group {
 public:
  // `staging`: shared with another group of the same size; null: its own.
  explicit Group(int size, Group* staging = nullptr)
      : flags_(static_cast<size_t>(size), std::vector<uint32_t>(static_cast<size_t>(size))) {
    std::vector<CopyExchange::Memory> ranks;
    for (int rank = 0; rank < size; ++rank) {
      targets_.push_back(kernels::MakeTensor(DType::kFloat32, {kTargetElements}));
      staging_.push_back(kernels::MakeTensor(DType::kUInt8, {kStagingBytes}));
      const Tensor& own =
          (staging != nullptr ? staging->staging_ : staging_)[static_cast<size_t>(rank)];
      ranks.push_back({.flags = flags_[static_cast<size_t>(rank)].data(),
                       .staging = static_cast<char*>(own.view().data),
                       .targets = {static_cast<char*>(targets_.back().view().data)}});
    }
    for (int rank = 0; rank < size; ++rank) {
      exchanges_.push_back(std::make_unique<CopyExchange>(
          CopyExchange::Options{.rank = rank,
                                .ranks = ranks,
                                .staging_bytes = kStagingBytes,
                                .target_bytes = {targets_.back().view().bytes()}}));
    }
  }
  int size() const { return static_cast<int>(exchanges_.size()); }
  CopyExchange& of(int rank) { return *exchanges_[static_cast<size_t>(rank)]; }
  TensorView target(int rank) const { return targets_[static_cast<size_t>(rank)].view(); }

 private:
  std::vector<std::vector<uint32_t>> flags_;
  std::vector<Tensor> staging_, targets_;
  std::vector<std::unique_ptr<CopyExchange>> exchanges_;
};

// Runs `body` for every rank at once, each in a thread.
template <typename Body>
void OnRanks(int size, Body body) {
  std::vector<std::thread> threads;
  for (int rank = 0; rank < size; ++rank) threads.emplace_back([&body, rank] { body(rank); });
  for (std::thread& thread : threads) thread.join();
}

Tensor InputOf(int rank, int call, DType dtype, int64_t count) {
  return RandomTensor(dtype, {count}, std::to_string(rank) + " " + std::to_string(call));
}

// What rank `rank` of `size` must get of a reduce-scatter, to the bit.
std::vector<double> SumOfParts(int size, int rank, int call, DType dtype, int64_t part) {
  std::vector<Tensor> inputs;
  std::vector<const void*> sources;
  for (int peer = 0; peer < size; ++peer) {
    inputs.push_back(InputOf(peer, call, dtype, size * part));
    sources.push_back(inputs.back().view().Slice(0, rank * part, (rank + 1) * part).data);
  }
  const Tensor sum = kernels::MakeTensor(dtype, {part});
  ReduceInRankOrder(dtype, ReduceOp::kSum, sources.data(), size, sum.view().data, part);
  return Values(sum.view());
}

// A stream that is late now and then, differently on each rank.
void Linger(std::mt19937& random, kernels::StreamView stream) {
  const auto us = std::chrono::microseconds(random() % 4 == 0 ? random() % 2000 : 0);
  stream.Enqueue([us] { std::this_thread::sleep_for(us); });
}

class CopyExchangeOf : public testing::TestWithParam<int> {};

TEST_P(CopyExchangeOf, SumsAreThoseOfRankOrderToTheBit) {
  Group group(GetParam());
  OnRanks(group.size(), [&](int rank) {
    const Stream stream = MakeStream("rank " + std::to_string(rank));
    std::mt19937 random(static_cast<unsigned>(rank)), shared(7);
    for (int call = 0; call < 40; ++call) {
      const DType dtype = call % 3 == 0 ? DType::kBFloat16 : DType::kFloat32;
      const int64_t part = 1 + static_cast<int64_t>(shared() % 3000);
      const Tensor in = InputOf(rank, call, dtype, group.size() * part);
      const bool in_place = shared() % 2 == 0;
      const Tensor apart = kernels::MakeTensor(dtype, {part});
      const TensorView out =
          in_place ? in.view().Slice(0, rank * part, (rank + 1) * part) : apart.view();
      Linger(random, stream.view());
      ASSERT_TRUE(group.of(rank).ReduceScatter(in.view(), out, stream.view()).ok());
      ASSERT_TRUE(stream.view().Synchronize().ok());
      EXPECT_EQ(Values(out), SumOfParts(group.size(), rank, call, dtype, part))
          << "rank " << rank << ", call " << call;
    }
  });
}

TEST_P(CopyExchangeOf, GathersBringEveryRanksPartInOrder) {
  Group group(GetParam());
  OnRanks(group.size(), [&](int rank) {
    const Stream stream = MakeStream("rank " + std::to_string(rank));
    std::mt19937 random(static_cast<unsigned>(rank)), shared(8);
    for (int call = 0; call < 40; ++call) {
      const int64_t part = 1 + static_cast<int64_t>(shared() % 500);
      const int64_t begin = static_cast<int64_t>(shared() % 500);
      const TensorView out = group.target(rank).Slice(0, begin, begin + group.size() * part);
      ASSERT_TRUE(group.of(rank).CanGather(out));
      const Tensor in = InputOf(rank, call, DType::kFloat32, part);
      Linger(random, stream.view());
      ASSERT_TRUE(group.of(rank).AllGather(in.view(), out, stream.view()).ok());
      ASSERT_TRUE(stream.view().Synchronize().ok());
      std::vector<double> expected;
      for (int peer = 0; peer < group.size(); ++peer) {
        const auto theirs = Values(InputOf(peer, call, DType::kFloat32, part).view());
        expected.insert(expected.end(), theirs.begin(), theirs.end());
      }
      EXPECT_EQ(Values(out), expected) << "rank " << rank << ", call " << call;
      // A rank that went on at once would overwrite the others' targets while they compare.
      const Tensor meeting = kernels::MakeTensor(DType::kFloat32, {group.size()});
      ASSERT_TRUE(
          group.of(rank)
              .ReduceScatter(meeting.view(), meeting.view().Slice(0, rank, rank + 1), stream.view())
              .ok());
      ASSERT_TRUE(stream.view().Synchronize().ok());
    }
  });
}

// Calls are enqueued without waiting, of two groups that share staging memory: nobody's received
// parts are overwritten before they are summed, however late a rank is.
TEST_P(CopyExchangeOf, RunsAheadWithoutOverwritingWhatIsNotSummedYet) {
  constexpr int kCalls = 60;
  constexpr int64_t kPart = 257;
  Group first(GetParam()), second(GetParam(), &first);
  OnRanks(first.size(), [&](int rank) {
    const Stream stream = MakeStream("rank " + std::to_string(rank));
    std::mt19937 random(static_cast<unsigned>(100 + rank));
    std::vector<Tensor> inputs, sums;
    for (int call = 0; call < kCalls; ++call) {
      inputs.push_back(InputOf(rank, call, DType::kFloat32, first.size() * kPart));
      sums.push_back(kernels::MakeTensor(DType::kFloat32, {kPart}));
      Linger(random, stream.view());
      Group& group = call % 3 == 0 ? second : first;
      ASSERT_TRUE(group.of(rank)
                      .ReduceScatter(inputs.back().view(), sums.back().view(), stream.view())
                      .ok());
    }
    ASSERT_TRUE(stream.view().Synchronize().ok());
    for (int call = 0; call < kCalls; ++call) {
      EXPECT_EQ(Values(sums[static_cast<size_t>(call)].view()),
                SumOfParts(first.size(), rank, call, DType::kFloat32, kPart))
          << "rank " << rank << ", call " << call;
    }
  });
}

INSTANTIATE_TEST_SUITE_P(Ranks, CopyExchangeOf, testing::Values(2, 3, 4, 5));

TEST(CopyExchange, RefusesAPartThatStagingMemoryDoesNotHold) {
  Group group(3);
  const Stream stream = MakeStream("refusal");
  const int64_t part = kStagingBytes / 2 / static_cast<int64_t>(sizeof(float)) + 1;
  const Tensor in = kernels::MakeTensor(DType::kFloat32, {3 * part});
  const absl::Status status =
      group.of(0).ReduceScatter(in.view(), in.view().Slice(0, 0, part), stream.view());
  ASSERT_TRUE(absl::IsResourceExhausted(status)) << status.ToString();
  for (const int64_t bytes : {2 * part * 4, kStagingBytes}) {
    EXPECT_NE(status.message().find(std::to_string(bytes)), std::string::npos) << status.ToString();
  }
}

TEST(CopyExchange, GathersOnlyWhereAllRanksWrite) {
  Group group(2);
  const TensorView target = group.target(0);
  EXPECT_TRUE(group.of(0).CanGather(target));
  EXPECT_TRUE(group.of(0).CanGather(target.Slice(0, 10, 20)));
  EXPECT_FALSE(group.of(0).CanGather(group.target(1)));
  EXPECT_FALSE(group.of(0).CanGather(
      kernels::TensorView(target.data, DType::kFloat32, {kTargetElements + 1})));
}

TEST(CopyExchange, ReleaseLetsAStreamGoOnWhosePeerNeverComes) {
  Group group(2);
  const Stream stream = MakeStream("left alone");
  const Tensor in = RandomTensor(DType::kFloat32, {8}, "x");
  ASSERT_TRUE(group.of(0).ReduceScatter(in.view(), in.view().Slice(0, 0, 4), stream.view()).ok());
  std::this_thread::sleep_for(std::chrono::milliseconds(20));
  group.of(0).Release();
  EXPECT_TRUE(stream.view().Synchronize().ok());
}

}  // namespace
}  // namespace muster::parallel
