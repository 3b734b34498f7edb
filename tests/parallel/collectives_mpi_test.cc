// The contract of a communicator, over any number of ranks: every collective, dtype and awkward
// size against a plain reference that each rank computes from all ranks' inputs.
#include <gtest/gtest.h>

#include <cstring>
#include <limits>
#include <thread>

#include "parallel/comm/collectives.h"
#include "tests/support/kernels/host_tensor.h"
#include "tests/support/mpi_main.h"

namespace muster::parallel {
namespace {

using kernels::Device;
using kernels::DType;
using kernels::MakeTensor;
using kernels::Shape;
using kernels::Stream;
using kernels::StreamMode;
using kernels::Tensor;
using kernels::Values;

Stream MakeStream(StreamMode mode, Device device = {}) {
  auto stream = Stream::Create(device, mode, "comm");
  MUSTER_CHECK_OK(stream.status());
  return *std::move(stream);
}

// The same on every rank that asks for the same arguments; integers for the integer dtypes.
Tensor InputOf(int rank, DType dtype, Shape shape, const std::string& name = "input") {
  if (dtype == DType::kUInt8) {  // has no negative values
    Tensor tensor = MakeTensor(dtype, shape);
    const kernels::PhiloxKey key = kernels::MakePhiloxKey(1, name + std::to_string(rank));
    for (int64_t i = 0; i < shape.num_elements(); ++i) {
      tensor.view().as<uint8_t>()[i] =
          static_cast<uint8_t>(kernels::Philox(key, static_cast<uint64_t>(i)).v[0]);
    }
    return tensor;
  }
  const bool integral = dtype == DType::kInt32 || dtype == DType::kInt64;
  Tensor tensor =
      kernels::RandomTensor(dtype, shape, name + std::to_string(rank), integral ? 40.0 : 1.0);
  return tensor;
}

// A tensor made on the host, on the device under test.
class Placed {
 public:
  Placed(Device device, Tensor host)
      : stream_(MakeStream(device == Device{} ? StreamMode::kInline : StreamMode::kQueue, device)),
        host_(std::move(host)) {
    if (device == Device{}) return;
    auto copy = Tensor::Allocate(host_.view().dtype, host_.view().shape, device);
    MUSTER_CHECK_OK(copy.status());
    copy_ = *std::move(copy);
    kernels::CopyAsync(copy_.view(), host_.view(), stream_.view());
    MUSTER_CHECK_OK(stream_.view().Synchronize());
  }
  const TensorView& view() const { return on_host() ? host_.view() : copy_.view(); }
  // What is in it now.
  const TensorView& Host() const {
    if (!on_host()) {
      kernels::CopyAsync(host_.view(), copy_.view(), stream_.view());
      MUSTER_CHECK_OK(stream_.view().Synchronize());
    }
    return host_.view();
  }

 private:
  bool on_host() const { return stream_.view().device() == Device{}; }
  Stream stream_;
  Tensor host_, copy_;
};

std::string BytesOf(const TensorView& view) {
  return std::string(static_cast<const char*>(view.data), static_cast<size_t>(view.bytes()));
}

// Reduction over ranks 0, 1, ... in the accumulator dtype, one element at a time.
template <typename Acc>
std::vector<double> ReduceReference(int size, DType dtype, Shape shape, ReduceOp op,
                                    const std::string& name) {
  std::vector<double> result = Values(InputOf(0, dtype, shape, name).view());
  for (int rank = 1; rank < size; ++rank) {
    const std::vector<double> next = Values(InputOf(rank, dtype, shape, name).view());
    for (size_t i = 0; i < result.size(); ++i) {
      const Acc a = static_cast<Acc>(result[i]), b = static_cast<Acc>(next[i]);
      result[i] =
          static_cast<double>(op == ReduceOp::kSum ? static_cast<Acc>(a + b) : std::max(a, b));
    }
  }
  if (dtype == DType::kBFloat16) {
    for (double& value : result) value = kernels::BFloat16(static_cast<float>(value));
  }
  return result;
}

std::vector<double> Reduced(int size, DType dtype, Shape shape, ReduceOp op,
                            const std::string& name = "input") {
  switch (dtype) {
    case DType::kFloat64:
      return ReduceReference<double>(size, dtype, shape, op, name);
    case DType::kInt32:
    case DType::kInt64:
      return ReduceReference<int64_t>(size, dtype, shape, op, name);
    default:
      return ReduceReference<float>(size, dtype, shape, op, name);
  }
}

struct Case {
  DType dtype;
  StreamMode mode;
  kernels::DeviceType device = kernels::DeviceType::kCpu;
};
std::string NameOf(const testing::TestParamInfo<Case>& info) {
  return std::string(kernels::Name(info.param.dtype)) +
         (info.param.mode == StreamMode::kInline ? "_inline" : "_queue");
}

// On GPUs sums are asked for in rank order, so that one contract holds to the bit; NCCL's own are
// tested in nccl_mpi_test.cc. A communicator of theirs takes a while to make, so a suite has one.
class Collective : public testing::TestWithParam<Case> {
 protected:
  static void SetUpTestSuite() {
    if (!HasGpus()) return;
    auto world = World::Create({.nccl = {.sums_in_rank_order = true}});
    MUSTER_CHECK_OK(world.status());
    gpu_world_ = *std::move(world);
    gpu_group_ = GroupOfAll(*gpu_world_, "all", TestGpu());
  }
  static void TearDownTestSuite() {
    gpu_group_.reset();
    gpu_world_.reset();
  }

  void SetUp() override {
    if (GetParam().device == kernels::DeviceType::kCuda) {
      if (!HasGpus()) GTEST_SKIP() << "wants a GPU for each rank";
      device_ = TestGpu();
      group_ = gpu_group_.get();
    } else {
      cpu_group_ = GroupOfAll(TestWorld());
      group_ = cpu_group_.get();
    }
    stream_ = std::make_unique<Stream>(MakeStream(GetParam().mode, device_));
    rank_ = group_->rank();
    size_ = group_->size();
  }
  Placed Input(Shape shape) const { return Placed(device_, InputOf(rank_, dtype_, shape)); }
  Placed Zeros(DType dtype, Shape shape) const { return Placed(device_, MakeTensor(dtype, shape)); }
  Placed Zeros(Shape shape) const { return Zeros(dtype_, shape); }

  static std::unique_ptr<World> gpu_world_;
  static std::unique_ptr<ProcessGroup> gpu_group_;
  std::unique_ptr<ProcessGroup> cpu_group_;
  ProcessGroup* group_ = nullptr;
  Device device_;
  std::unique_ptr<Stream> stream_;
  const DType dtype_ = GetParam().dtype;
  int rank_ = 0, size_ = 0;
};
std::unique_ptr<World> Collective::gpu_world_;
std::unique_ptr<ProcessGroup> Collective::gpu_group_;
class Reduction : public Collective {};

// Below and above the all-reduce's change of algorithm, one element, none, and several windows
// with a remainder.
constexpr int64_t kCounts[] = {0, 1, 7, 1025, 8'209, 400'003};

TEST_P(Reduction, AllReduceEqualsSumAndMaxInRankOrder) {
  for (const ReduceOp op : {ReduceOp::kSum, ReduceOp::kMax}) {
    for (const int64_t count : kCounts) {
      const Placed data = Input({count});
      ASSERT_TRUE(AllReduce(data.view(), op, *group_, stream_->view()).ok());
      ASSERT_TRUE(stream_->view().Synchronize().ok());
      ASSERT_EQ(Values(data.Host()), Reduced(size_, dtype_, {count}, op)) << count;
    }
  }
}

TEST_P(Reduction, ReduceScatterGivesEachRankItsPartOfTheSum) {
  for (const int64_t count : kCounts) {
    const Placed in = Input({count * size_}), out = Zeros({count});
    const std::string before = BytesOf(in.Host());
    ASSERT_TRUE(
        ReduceScatter(in.view(), out.view(), ReduceOp::kSum, *group_, stream_->view()).ok());
    ASSERT_TRUE(stream_->view().Synchronize().ok());
    const auto all = Reduced(size_, dtype_, {count * size_}, ReduceOp::kSum);
    const std::vector<double> part(all.begin() + rank_ * count, all.begin() + (rank_ + 1) * count);
    ASSERT_EQ(Values(out.Host()), part) << count;
    EXPECT_EQ(BytesOf(in.Host()), before);
    const TensorView own = in.view().Slice(0, rank_ * count, (rank_ + 1) * count);
    ASSERT_TRUE(ReduceScatter(in.view(), own, ReduceOp::kSum, *group_, stream_->view()).ok());
    ASSERT_TRUE(stream_->view().Synchronize().ok());
    ASSERT_EQ(Values(in.Host().Slice(0, rank_ * count, (rank_ + 1) * count)), part)
        << "in place, " << count;
  }
}

// What buckets rely on: cutting a tensor anywhere, or scattering it, changes no bit.
TEST_P(Reduction, NoSplitChangesABit) {
  const int64_t count = 12'000 * size_;
  const Placed whole = Input({count}), cut = Input({count});
  const Placed in = Input({count}), part = Zeros({count / size_});
  ASSERT_TRUE(AllReduce(whole.view(), ReduceOp::kSum, *group_, stream_->view()).ok());
  for (int64_t begin = 0, size = 1; begin < count; begin += size, size = size * 3 + 1) {
    const int64_t end = std::min(begin + size, count);
    ASSERT_TRUE(
        AllReduce(cut.view().Slice(0, begin, end), ReduceOp::kSum, *group_, stream_->view()).ok());
  }
  ASSERT_TRUE(ReduceScatter(in.view(), part.view(), ReduceOp::kSum, *group_, stream_->view()).ok());
  ASSERT_TRUE(stream_->view().Synchronize().ok());
  EXPECT_TRUE(BytesOf(whole.Host()) == BytesOf(cut.Host()));
  const int64_t own = count / size_;
  EXPECT_TRUE(BytesOf(part.Host()) ==
              BytesOf(whole.Host().Slice(0, rank_ * own, (rank_ + 1) * own)));
}

TEST_P(Collective, AllGatherLinesUpByRank) {
  for (const int64_t count : kCounts) {
    const Placed in = Input({count}), out = Zeros({size_ * count});
    Tensor own_only = MakeTensor(dtype_, {size_ * count});
    const TensorView place = own_only.view().Slice(0, rank_ * count, (rank_ + 1) * count);
    if (count > 0) std::memcpy(place.data, in.Host().data, static_cast<size_t>(place.bytes()));
    const Placed in_place(device_, std::move(own_only));
    const TensorView own = in_place.view().Slice(0, rank_ * count, (rank_ + 1) * count);
    ASSERT_TRUE(AllGather(in.view(), out.view(), *group_, stream_->view()).ok());
    ASSERT_TRUE(AllGather(own, in_place.view(), *group_, stream_->view()).ok());
    ASSERT_TRUE(stream_->view().Synchronize().ok());
    std::string expected;
    for (int rank = 0; rank < size_; ++rank) {
      expected += BytesOf(InputOf(rank, dtype_, {count}).view());
    }
    ASSERT_TRUE(BytesOf(out.Host()) == expected) << count;
    ASSERT_TRUE(BytesOf(in_place.Host()) == expected) << "in place, " << count;
  }
}

// Rows that rank `from` sends to rank `to`: uneven, some none.
int64_t RowsBetween(int from, int to) { return (from * 7 + to * 3) % 5; }

TEST_P(Collective, AllToAllMovesRowsByCounts) {
  const int64_t width = 3, bound = 5 * size_;
  const Placed in = Input({bound, width}), out = Zeros({bound, width});
  Tensor sent = MakeTensor(DType::kInt64, {size_}), received = MakeTensor(DType::kInt64, {size_});
  std::string expected;
  for (int peer = 0; peer < size_; ++peer) {
    sent.view().as<int64_t>()[peer] = RowsBetween(rank_, peer);
    received.view().as<int64_t>()[peer] = RowsBetween(peer, rank_);
    int64_t begin = 0;
    for (int before = 0; before < rank_; ++before) begin += RowsBetween(peer, before);
    const Tensor theirs = InputOf(peer, dtype_, {bound, width});
    expected += BytesOf(theirs.view().Slice(0, begin, begin + RowsBetween(peer, rank_)));
  }
  const Placed send_counts(device_, std::move(sent)), receive_counts(device_, std::move(received));
  ASSERT_TRUE(AllToAll(in.view(), out.view(), send_counts.view(), receive_counts.view(), *group_,
                       stream_->view())
                  .ok());
  ASSERT_TRUE(stream_->view().Synchronize().ok());
  EXPECT_TRUE(BytesOf(out.Host()).substr(0, expected.size()) == expected);
}

TEST_P(Collective, AllToAllEqualTransposesParts) {
  for (const int64_t count : kCounts) {
    const Placed in = Input({size_ * count}), out = Zeros({size_ * count});
    ASSERT_TRUE(AllToAllEqual(in.view(), out.view(), *group_, stream_->view()).ok());
    ASSERT_TRUE(stream_->view().Synchronize().ok());
    std::string expected;
    for (int rank = 0; rank < size_; ++rank) {
      const Tensor theirs = InputOf(rank, dtype_, {size_ * count});
      expected += BytesOf(theirs.view().Slice(0, rank_ * count, (rank_ + 1) * count));
    }
    ASSERT_TRUE(BytesOf(out.Host()) == expected) << count;
  }
}

// Pairs of different sizes, among them empty ones and several of MPI's chunks.
TEST_P(Collective, ShiftMovesToTheRankThatFarAhead) {
  if (size_ == 1) GTEST_SKIP() << "nobody to shift to";
  const auto count_of = [](int rank, int64_t unit) { return (rank + 1) * unit; };
  for (int distance = 1; distance < size_; ++distance) {
    for (const int64_t unit : {int64_t{0}, int64_t{5}, int64_t{1'300'001}}) {
      if (unit > 5 && distance > 1) continue;
      const int from = (rank_ - distance + size_) % size_;
      const Placed in = Input({count_of(rank_, unit)}), out = Zeros({count_of(from, unit)});
      ASSERT_TRUE(Shift(in.view(), out.view(), distance, *group_, stream_->view()).ok());
      ASSERT_TRUE(stream_->view().Synchronize().ok());
      ASSERT_TRUE(BytesOf(out.Host()) ==
                  BytesOf(InputOf(from, dtype_, {count_of(from, unit)}).view()))
          << "distance " << distance << ", unit " << unit;
    }
  }
}

TEST_P(Collective, BroadcastReachesAllFromAnyRoot) {
  for (int root = 0; root < size_; ++root) {
    for (const int64_t count : kCounts) {
      const Placed data = Input({count});
      ASSERT_TRUE(Broadcast(data.view(), root, *group_, stream_->view()).ok());
      ASSERT_TRUE(stream_->view().Synchronize().ok());
      ASSERT_TRUE(BytesOf(data.Host()) == BytesOf(InputOf(root, dtype_, {count}).view()));
    }
  }
}

// Around a ring, in messages up to several of MPI's chunks.
TEST_P(Collective, SendMeetsReceive) {
  if (size_ == 1) GTEST_SKIP() << "nobody to send to";
  for (const int64_t count : {int64_t{0}, int64_t{5}, int64_t{2'500'001}}) {
    const Placed mine = Input({count}), theirs = Zeros({count});
    const int next = (rank_ + 1) % size_, previous = (rank_ + size_ - 1) % size_;
    for (int turn = 0; turn < 2; ++turn) {
      if (turn == (rank_ == 0 ? 0 : 1)) {
        ASSERT_TRUE(Send(mine.view(), next, *group_, stream_->view()).ok());
      } else {
        ASSERT_TRUE(Receive(theirs.view(), previous, *group_, stream_->view()).ok());
      }
    }
    ASSERT_TRUE(stream_->view().Synchronize().ok());
    ASSERT_TRUE(BytesOf(theirs.Host()) == BytesOf(InputOf(previous, dtype_, {count}).view()));
  }
}

constexpr Case kAllCases[] = {
    {DType::kFloat32, StreamMode::kInline}, {DType::kBFloat16, StreamMode::kInline},
    {DType::kFloat64, StreamMode::kInline}, {DType::kInt32, StreamMode::kInline},
    {DType::kInt64, StreamMode::kInline},   {DType::kFloat32, StreamMode::kQueue},
    {DType::kBFloat16, StreamMode::kQueue}, {DType::kUInt8, StreamMode::kInline},
};
INSTANTIATE_TEST_SUITE_P(Mpi, Collective, testing::ValuesIn(kAllCases), NameOf);
INSTANTIATE_TEST_SUITE_P(Mpi, Reduction,
                         testing::ValuesIn(kAllCases, kAllCases + std::size(kAllCases) - 1),
                         NameOf);

constexpr Case kGpuCases[] = {
    {DType::kFloat32, StreamMode::kQueue, kernels::DeviceType::kCuda},
    {DType::kBFloat16, StreamMode::kQueue, kernels::DeviceType::kCuda},
    {DType::kFloat64, StreamMode::kQueue, kernels::DeviceType::kCuda},
    {DType::kInt32, StreamMode::kQueue, kernels::DeviceType::kCuda},
    {DType::kInt64, StreamMode::kQueue, kernels::DeviceType::kCuda},
    {DType::kUInt8, StreamMode::kQueue, kernels::DeviceType::kCuda},
};
INSTANTIATE_TEST_SUITE_P(Nccl, Collective, testing::ValuesIn(kGpuCases), NameOf);
INSTANTIATE_TEST_SUITE_P(Nccl, Reduction,
                         testing::ValuesIn(kGpuCases, kGpuCases + std::size(kGpuCases) - 1),
                         NameOf);

TEST(Barrier, HoldsEveryRankUntilTheLastOneComes) {
  const auto group = GroupOfAll(TestWorld());
  const Stream stream = MakeStream(StreamMode::kInline);
  const auto now_us = [] {  // one clock for all ranks of a host
    return std::chrono::duration_cast<std::chrono::microseconds>(
               std::chrono::steady_clock::now().time_since_epoch())
        .count();
  };
  std::this_thread::sleep_for(std::chrono::milliseconds(20 * group->rank()));
  const auto arrived = TestWorld().GatherText("");  // all are here
  ASSERT_TRUE(arrived.ok());
  std::this_thread::sleep_for(std::chrono::milliseconds(20 * group->rank()));
  const int64_t came = now_us();
  ASSERT_TRUE(Barrier(*group, stream.view()).ok());
  const int64_t left = now_us();
  const auto all_came = TestWorld().GatherText(std::to_string(came));
  ASSERT_TRUE(all_came.ok());
  for (const std::string& time : *all_came) EXPECT_LE(std::stoll(time), left);
}

TEST(AllReduce, KeepsNotANumberInMax) {
  const auto group = GroupOfAll(TestWorld());
  const Stream stream = MakeStream(StreamMode::kInline);
  for (int poisoned = 0; poisoned < group->size(); ++poisoned) {
    const Tensor data = InputOf(group->rank(), DType::kFloat32, {3});
    if (group->rank() == poisoned) {
      data.view().as<float>()[1] = std::numeric_limits<float>::quiet_NaN();
    }
    ASSERT_TRUE(AllReduce(data.view(), ReduceOp::kMax, *group, stream.view()).ok());
    const std::vector<double> result = Values(data.view());
    EXPECT_EQ(result[0], result[0]);
    EXPECT_NE(result[1], result[1]) << "NaN of rank " << poisoned << " got lost";
  }
}

// Otherwise the logs of ranks could not be compared.
TEST(ProcessGroup, NumbersCollectivesAlikeOnAllRanksWhateverIsSentBetween) {
  const auto group = GroupOfAll(TestWorld(), "numbered");
  const Stream stream = MakeStream(StreamMode::kInline);
  const Tensor data = InputOf(0, DType::kFloat32, {4});
  ASSERT_TRUE(Barrier(*group, stream.view()).ok());
  if (group->size() > 1 && group->rank() == 0) {
    ASSERT_TRUE(Send(data.view(), 1, *group, stream.view()).ok());
  } else if (group->rank() == 1) {
    ASSERT_TRUE(Receive(data.view(), 0, *group, stream.view()).ok());
  }
  ASSERT_TRUE(Barrier(*group, stream.view()).ok());
  if (group->size() == 1) return;  // nothing is called
  const CollectiveEntry last = TestWorld().log().Entries().back();
  EXPECT_EQ(last.group, "numbered");
  EXPECT_EQ(last.kind, CollectiveKind::kBarrier);
  EXPECT_EQ(last.sequence, 1u);
  EXPECT_EQ(last.site.rfind("tests/parallel/collectives_mpi_test.cc:", 0), 0u) << last.site;
}

TEST(Collectives, OfTwoGroupsRunAtOnceFromTwoThreads) {
  const auto first = GroupOfAll(TestWorld(), "first"), second = GroupOfAll(TestWorld(), "second");
  const Stream streams[] = {MakeStream(StreamMode::kQueue), MakeStream(StreamMode::kQueue)};
  const ProcessGroup* groups[] = {first.get(), second.get()};
  constexpr int kRounds = 40;
  std::vector<Tensor> data[2];
  for (int which = 0; which < 2; ++which) {
    for (int round = 0; round < kRounds; ++round) {
      data[which].push_back(
          InputOf(first->rank(), DType::kFloat32, {9'001 + 97 * round}, std::to_string(which)));
    }
  }
  std::thread threads[2];
  for (int which = 0; which < 2; ++which) {
    threads[which] = std::thread([&, which] {
      for (const Tensor& tensor : data[which]) {
        MUSTER_CHECK_OK(
            AllReduce(tensor.view(), ReduceOp::kSum, *groups[which], streams[which].view()));
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  for (int which = 0; which < 2; ++which) {
    ASSERT_TRUE(streams[which].view().Synchronize().ok());
    for (const Tensor& tensor : data[which]) {
      ASSERT_EQ(Values(tensor.view()), Reduced(first->size(), DType::kFloat32, tensor.view().shape,
                                               ReduceOp::kSum, std::to_string(which)));
    }
  }
}

}  // namespace
}  // namespace muster::parallel
