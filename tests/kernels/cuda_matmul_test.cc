#include <gtest/gtest.h>
#include <unistd.h>

#include <cmath>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <limits>
#include <string>
#include <tuple>
#include <vector>

#include "kernels/ops/cuda/matmul_cache.h"
#include "kernels/ops/matmul.h"
#include "tests/support/kernels/naive_matmul.h"
#include "tests/support/kernels/on_cuda.h"
#include "tests/support/kernels/tolerance.h"

namespace muster::kernels {
namespace {

constexpr double kNan = std::numeric_limits<double>::quiet_NaN();

// A host matrix whose rows lie `gap` elements further apart than their length, in memory that
// starts as NaN, and its twin on the device.
struct TwinMatrix {
  Tensor host_memory, memory;
  TensorView host, view;
};
TwinMatrix MakeTwin(DType dtype, int64_t rows, int64_t columns, int64_t gap,
                    const std::string& name, StreamView stream) {
  TwinMatrix twin;
  twin.host_memory = MakeTensor(dtype, {rows, columns + gap});
  for (int64_t i = 0; i < twin.host_memory.view().num_elements(); ++i) {
    SetValue(twin.host_memory.view(), i, kNan);
  }
  twin.host = twin.host_memory.view().Slice(1, 0, columns);
  if (name != "nan") FillRandom(twin.host, name);
  twin.memory = CopyToCuda(twin.host_memory.view(), stream);
  twin.view = SameView(twin.host, twin.host_memory.view(), twin.memory.view());
  return twin;
}

enum class Onto { kNothing, kAccumulate, kBias };

struct Types {
  DType operands, result;
};
using Param = std::tuple<Types, bool, bool, Onto, int>;

class CudaMatmul : public OnCuda, public ::testing::WithParamInterface<Param> {
 protected:
  void Check(int64_t m, int64_t n, int64_t k) {
    SCOPED_TRACE("m " + std::to_string(m) + " n " + std::to_string(n) + " k " + std::to_string(k));
    const Stream stream = MakeCudaStream();
    const auto [types, a_transposed, b_transposed, onto, gap] = GetParam();
    const bool accumulate = onto == Onto::kAccumulate;
    const TwinMatrix a = a_transposed ? MakeTwin(types.operands, k, m, gap, "a", stream.view())
                                      : MakeTwin(types.operands, m, k, gap, "a", stream.view());
    const TwinMatrix b = b_transposed ? MakeTwin(types.operands, n, k, gap, "b", stream.view())
                                      : MakeTwin(types.operands, k, n, gap, "b", stream.view());
    // What is not accumulated on must not be read.
    const TwinMatrix c = MakeTwin(types.result, m, n, gap, accumulate ? "c" : "nan", stream.view());
    const Tensor host_bias = RandomTensor(types.result, {n}, "bias");
    const Tensor bias = CopyToCuda(host_bias.view(), stream.view());
    std::vector<double> expected = NaiveMatmul(a_transposed ? Transposed(a.host) : a.host,
                                               b_transposed ? Transposed(b.host) : b.host);
    for (size_t i = 0; i < expected.size(); ++i) {
      const int64_t index = static_cast<int64_t>(i);
      if (accumulate) expected[i] += GetValue(c.host, index);
      if (onto == Onto::kBias) expected[i] += GetValue(host_bias.view(), index % n);
    }
    Matmul({.a = a.view,
            .b = b.view,
            .c = c.view,
            .bias = onto == Onto::kBias ? bias.view() : TensorView(),
            .a_transposed = a_transposed,
            .b_transposed = b_transposed,
            .accumulate = accumulate},
           stream.view());
    ASSERT_TRUE(stream.view().Synchronize().ok()) << stream.view().Synchronize();
    const Tensor result = CopyToHost(c.memory.view(), stream.view());
    EXPECT_TRUE(IsClose(result.view().Slice(1, 0, n), expected));
    int64_t numbers = 0;
    for (double value : Values(result.view())) numbers += !std::isnan(value);
    EXPECT_EQ(numbers, m * n) << "wrote between the rows";
  }
};

TEST_P(CudaMatmul, EqualsReference) {
  Check(1, 1, 1);
  Check(5, 7, 3);
  Check(1, 33, 17);
  Check(33, 1, 65);
  Check(48, 70, 129);
  Check(256, 128, 320);
  // Long odd dims, which are cut where gaps of 3 align their rows.
  Check(40, 261, 24);
  Check(261, 48, 24);
  Check(24, 40, 261);
  Check(261, 261, 261);
}

TEST_P(CudaMatmul, EmptySidesAreLegal) {
  Check(0, 5, 4);
  Check(5, 0, 4);
  Check(5, 4, 0);  // an empty sum: zero, the bias, or what was there
  Check(0, 0, 0);
}

std::string CaseName(const ::testing::TestParamInfo<Param>& info) {
  const auto [types, a_transposed, b_transposed, onto, gap] = info.param;
  const char* onto_names[] = {"", "Accumulate", "Bias"};
  return std::string(Name(types.operands)) + "To" + Name(types.result) +
         (a_transposed ? "T" : "N") + (b_transposed ? "T" : "N") +
         onto_names[static_cast<int>(onto)] + "Gap" + std::to_string(gap);
}

INSTANTIATE_TEST_SUITE_P(
    Matmul, CudaMatmul,
    ::testing::Combine(::testing::Values(Types{DType::kFloat32, DType::kFloat32},
                                         Types{DType::kBFloat16, DType::kBFloat16},
                                         Types{DType::kBFloat16, DType::kFloat32}),
                       ::testing::Bool(), ::testing::Bool(),
                       ::testing::Values(Onto::kNothing, Onto::kAccumulate, Onto::kBias),
                       ::testing::Values(0, 3, 8)),
    CaseName);

#ifdef MUSTER_WITH_CUDA  // what is tested is compiled with CUDA only
TEST(MatmulCacheFile, TheFirstChoiceForAKeyIsEveryRanks) {
  const std::string directory = ::testing::TempDir() + "/cache_of_" + std::to_string(getpid());
  const std::string path = directory + "/muster/matmul_algorithms";  // no such directory yet
  const cuda::MatmulKey key = {.m = 4096, .n = 4096, .k = 4096}, other = {.m = 1, .n = 2, .k = 3};
  const cuda::MatmulAlgorithm first = {{1, 2}}, second = {{3, 4}};
  cuda::MatmulCacheFile one(path, "NVIDIA H200"), two(path, "NVIDIA H200");
  EXPECT_EQ(one.Add(key, first).data[0], 1u);
  EXPECT_EQ(two.Add(key, second).data[0], 1u) << "the other was there before";
  EXPECT_EQ(two.Add(other, second).data[0], 3u);
  const cuda::MatmulCacheFile later(path, "NVIDIA H200"), elsewhere(path, "NVIDIA H100");
  ASSERT_TRUE(later.Find(key).has_value());
  EXPECT_EQ(later.Find(key)->data[1], 2u);
  EXPECT_TRUE(later.Find(other).has_value());
  EXPECT_FALSE(elsewhere.Find(key).has_value());
  std::filesystem::remove_all(directory);
}

TEST(MatmulCachePath, IsTheUsersUnlessNamed) {
  EXPECT_EQ(cuda::MatmulCachePath("/a/file", "/x", "/h"), "/a/file");
  EXPECT_EQ(cuda::MatmulCachePath("", "/x", "/h"), "");
  EXPECT_EQ(cuda::MatmulCachePath(nullptr, "/x", "/h"), "/x/muster/matmul_algorithms");
  EXPECT_EQ(cuda::MatmulCachePath(nullptr, "", "/h"), "/h/.cache/muster/matmul_algorithms");
  EXPECT_EQ(cuda::MatmulCachePath(nullptr, nullptr, nullptr), "");
}
#endif  // MUSTER_WITH_CUDA

// Products large enough for the timed search of an algorithm.
class CudaMatmulSearch : public OnCuda {
 protected:
  static constexpr int64_t kN = 1024;
  void TearDown() override { unsetenv("MUSTER_MATMUL_CACHE"); }

  // c, which starts as ones, after one product with accumulation, on a stream of its own.
  std::vector<double> Product() {
    const Stream stream = MakeCudaStream();
    const Tensor a = CopyToCuda(host_a_.view(), stream.view());
    const Tensor b = CopyToCuda(host_b_.view(), stream.view());
    const Tensor ones = TensorOf(DType::kFloat32, {kN, kN}, std::vector<double>(kN * kN, 1));
    const Tensor c = CopyToCuda(ones.view(), stream.view());
    Matmul({.a = a.view(), .b = b.view(), .c = c.view(), .a_transposed = true, .accumulate = true},
           stream.view());
    return Values(CopyToHost(c.view(), stream.view()).view());
  }
  const Tensor host_a_ = RandomTensor(DType::kBFloat16, {kN, kN}, "a");
  const Tensor host_b_ = RandomTensor(DType::kBFloat16, {kN, kN}, "b");
};

TEST_F(CudaMatmulSearch, AddsOntoTheResultOnce) {
  const std::vector<double> actual = Product();
  const Tensor expected = TensorOf(DType::kFloat32, {kN, kN}, std::vector<double>(kN * kN, 1));
  cpu::Matmul({.a = host_a_.view(),
               .b = host_b_.view(),
               .c = expected.view(),
               .a_transposed = true,
               .accumulate = true});
  EXPECT_TRUE(IsClose(expected.view(), actual));
}

TEST_F(CudaMatmulSearch, CacheFileKeepsTheChoice) {
  const std::filesystem::path path =
      std::filesystem::temp_directory_path() / ("muster_matmul_cache_" + std::to_string(getpid()));
  std::filesystem::remove(path);
  setenv("MUSTER_MATMUL_CACHE", path.c_str(), 1);
  const auto num_lines = [&] {
    std::ifstream file(path);
    int count = 0;
    for (std::string line; std::getline(file, line);) ++count;
    return count;
  };
  const std::vector<double> first = Product();
  EXPECT_EQ(num_lines(), 1);
  const std::vector<double> second = Product();
  EXPECT_EQ(num_lines(), 1) << "the second stream searched again";
  EXPECT_EQ(first, second);
  std::filesystem::remove(path);
}

}  // namespace
}  // namespace muster::kernels
