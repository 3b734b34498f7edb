#include "kernels/device/host_region.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <cstring>
#include <numeric>
#include <vector>

#include "kernels/base/error.h"
#include "kernels/device/memory.h"

namespace muster::kernels {
namespace {

const int64_t kPage = sysconf(_SC_PAGESIZE);

std::unique_ptr<HostRegion> Reserve(int64_t bytes, int64_t chunk_bytes, Device device = {}) {
  auto region = HostRegion::Reserve(device, bytes, chunk_bytes);
  MUSTER_CHECK_OK(region.status());
  return *std::move(region);
}

TEST(HostRegion, TakesNothingBeforeItIsPrepared) {
  const int64_t bytes = 1000 * kPage + 1;
  const auto region = Reserve(bytes, 16 * kPage);
  EXPECT_EQ(region->taken_bytes(), 0);
  region->Prepare();
  region->Prepare();
  ASSERT_TRUE(region->Await().ok());
  EXPECT_EQ(region->taken_bytes(), bytes);
  EXPECT_TRUE(region->status().ok());
}

TEST(HostRegion, AwaitingPreparesIt) {
  const auto region = Reserve(3, kPage);
  ASSERT_TRUE(region->Await().ok());
  ASSERT_TRUE(region->Await().ok());
  EXPECT_EQ(region->taken_bytes(), 3);
}

TEST(HostRegion, MayEndWhileItIsPrepared) {
  for (int i = 0; i < 20; ++i) {
    const auto region = Reserve(2000 * kPage, kPage);
    if (i % 2 == 0) region->Prepare();
  }
}

// More than there are addresses; beyond that Linux promises memory that it may not have.
TEST(HostRegion, WithoutAddressesThereIsNone) {
  const auto region = HostRegion::Reserve({}, int64_t{1} << 60);
  EXPECT_TRUE(absl::IsResourceExhausted(region.status())) << region.status();
  EXPECT_NE(region.status().message().find(std::to_string(int64_t{1} << 60)), std::string::npos);
}

void ExpectCopiesArrive(Device device, StreamMode mode) {
  const auto stream = Stream::Create(device, mode, "test");
  ASSERT_TRUE(stream.ok()) << stream.status();
  const int64_t bytes = 10 * kPage;
  const auto region = Reserve(bytes, 2 * kPage, device);
  ASSERT_TRUE(region->Await().ok()) << region->status();
  std::vector<char> numbers(static_cast<size_t>(bytes));
  std::iota(numbers.begin(), numbers.end(), 1);
  auto source = DeviceBuffer::Allocate(device, bytes);
  ASSERT_TRUE(source.ok()) << source.status();
  CopyAsync(source->data(), numbers.data(), bytes, stream->view());
  // Within a chunk, over its end, over several, up to the last byte, nothing.
  for (const auto& [offset, size] : std::vector<std::pair<int64_t, int64_t>>{
           {0, 5}, {2 * kPage - 3, 7}, {kPage, 8 * kPage}, {bytes - 1, 1}, {bytes, 0}}) {
    region->CopyFrom(static_cast<char*>(source->data()) + offset, offset, size, stream->view());
    ASSERT_TRUE(stream->view().Synchronize().ok()) << stream->view().Synchronize();
    EXPECT_EQ(
        std::memcmp(region->data() + offset, numbers.data() + offset, static_cast<size_t>(size)), 0)
        << size << " bytes at " << offset;
  }
}

TEST(HostRegion, CopiesGoOverTheEndsOfChunks) { ExpectCopiesArrive({}, StreamMode::kQueue); }

TEST(CudaHostRegion, CopiesGoOverTheEndsOfChunks) {
  if (DeviceCount(DeviceType::kCuda) == 0) GTEST_SKIP() << "no CUDA device here";
  ExpectCopiesArrive({DeviceType::kCuda, 0}, StreamMode::kQueue);
}

}  // namespace
}  // namespace muster::kernels
