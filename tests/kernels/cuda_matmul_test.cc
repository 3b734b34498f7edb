#include <gtest/gtest.h>

#include <bit>
#include <cmath>
#include <limits>
#include <map>
#include <string>
#include <tuple>
#include <vector>

#include "kernels/device/memory.h"
#include "kernels/ops/cast.h"
#include "kernels/ops/matmul.h"
#include "kernels/ops/matmul_chooser.h"
#include "tests/support/kernels/naive_matmul.h"
#include "tests/support/kernels/on_cuda.h"
#include "tests/support/kernels/tolerance.h"
#ifdef MUSTER_WITH_CUDA
#include <cublasLt.h>
#include <cuda_runtime.h>

#include "kernels/ops/cuda/matmul_plan.h"
#endif

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

// Products large enough for the timed search of an algorithm.
class CudaMatmulSearch : public OnCuda {
 protected:
  static constexpr int64_t kN = 1024;

  // c, which starts as ones, after one product with accumulation, on a stream of its own that was
  // given `chosen`. Its key goes to `key`.
  std::vector<double> Product(const std::map<MatmulKey, MatmulAlgorithm>& chosen = {},
                              MatmulKey* key = nullptr) {
    const Stream stream = MakeCudaStream();
    if (!chosen.empty()) (*MakeMatmulChooser(stream.view()))->Use(chosen);
    const Tensor a = CopyToCuda(host_a_.view(), stream.view());
    const Tensor b = CopyToCuda(host_b_.view(), stream.view());
    const Tensor ones = TensorOf(DType::kFloat32, {kN, kN}, std::vector<double>(kN * kN, 1));
    const Tensor c = CopyToCuda(ones.view(), stream.view());
    const MatmulArgs args = {
        .a = a.view(), .b = b.view(), .c = c.view(), .a_transposed = true, .accumulate = true};
    if (key != nullptr) *key = MatmulKey::Of(args);
    Matmul(args, stream.view());
    EXPECT_TRUE(stream.view().Synchronize().ok()) << stream.view().Synchronize();
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

// A choice that was made on operands of the chooser's own runs the product, on any stream.
TEST_F(CudaMatmulSearch, ChoiceMadeBeforehandIsUsed) {
  MatmulKey key;
  const std::vector<double> searched = Product({}, &key);
  const Stream stream = MakeCudaStream();
  const auto chooser = MakeMatmulChooser(stream.view());
  ASSERT_TRUE(chooser.ok() && *chooser != nullptr) << chooser.status();
  const auto choice = (*chooser)->Search(key);
  ASSERT_TRUE(choice.ok()) << choice.status();
  EXPECT_TRUE(choice->searched);
  EXPECT_TRUE((*chooser)->Accepts(key, choice->algorithm));
  EXPECT_FALSE((*chooser)->Accepts(key, MatmulAlgorithm{{~0ull, ~0ull, ~0ull, ~0ull}}));
  EXPECT_EQ((*chooser)->scope().find(' '), std::string::npos) << (*chooser)->scope();
  const std::map<MatmulKey, MatmulAlgorithm> chosen = {{key, choice->algorithm}};
  const std::vector<double> first = Product(chosen), second = Product(chosen);
  EXPECT_EQ(first, second) << "to the bit, on two streams";
  const Tensor expected = TensorOf(DType::kFloat32, {kN, kN}, searched);
  EXPECT_TRUE(IsClose(expected.view(), first));
}

#ifdef MUSTER_WITH_CUDA
TEST_F(CudaMatmulSearch, WithoutMemoryTheFirstProposalIsTaken) {
  const Stream stream = MakeCudaStream();
  const auto chooser = MakeMatmulChooser(stream.view());
  ASSERT_TRUE(chooser.ok() && *chooser != nullptr) << chooser.status();
  const MatmulKey key = {.m = 16384,
                         .n = 16384,
                         .k = 8192,
                         .a_stride = 8192,
                         .b_stride = 16384,
                         .c_stride = 16384,
                         .storage = DType::kBFloat16,
                         .result = DType::kFloat32};  // 1.6 GB
  size_t free_bytes = 0, all_bytes = 0;
  ASSERT_EQ(cudaMemGetInfo(&free_bytes, &all_bytes), cudaSuccess);
  const auto taken = DeviceBuffer::Allocate(stream.view().device(),
                                            static_cast<int64_t>(free_bytes) - (int64_t{1} << 30));
  ASSERT_TRUE(taken.ok()) << taken.status();
  const auto choice = (*chooser)->Search(key);
  ASSERT_TRUE(choice.ok()) << choice.status();
  EXPECT_FALSE(choice->searched);
  EXPECT_TRUE((*chooser)->Accepts(key, choice->algorithm));
  // The lack of memory is no business of who launches next.
  const Tensor next = CopyToCuda(RandomTensor(DType::kFloat32, {8}, "next").view(), stream.view());
  Fill({.x = next.view(), .value = 1}, stream.view());
  EXPECT_TRUE(stream.view().Synchronize().ok()) << stream.view().status();
}

// Whatever a search may choose, with sums that are long enough to be cut.
TEST_F(CudaMatmulSearch, EveryProposalRepeatsToTheBit) {
  const Stream stream = MakeCudaStream();
  const auto plans = cuda::MatmulPlans::Of(stream.view());
  ASSERT_TRUE(plans.ok()) << plans.status();
  int proposals = 0, cut = 0;
  for (const int64_t side : {128, 256, 1024})
    for (const int64_t k : {8192, 32768})
      for (const DType result : {DType::kBFloat16, DType::kFloat32})
        for (const bool accumulate : {false, true}) {
          const Tensor a =
              CopyToCuda(RandomTensor(DType::kBFloat16, {k, side}, "a").view(), stream.view());
          const Tensor b =
              CopyToCuda(RandomTensor(DType::kBFloat16, {k, side}, "b").view(), stream.view());
          const Tensor start =
              CopyToCuda(RandomTensor(result, {side, side}, "c").view(), stream.view());
          const Tensor c = CopyToCuda(start.view(), stream.view());
          const MatmulKey key = MatmulKey::Of({.a = a.view(),
                                               .b = b.view(),
                                               .c = c.view(),
                                               .a_transposed = true,
                                               .accumulate = accumulate});
          const auto plan = cuda::MatmulPlan::Create(key, nullptr);
          ASSERT_TRUE(plan.ok()) << plan.status();
          const auto algorithms = (*plan)->Propose((*plans)->handle(), cuda::kSearchedAlgorithms);
          ASSERT_TRUE(algorithms.ok()) << algorithms.status();
          for (const MatmulAlgorithm& algorithm : *algorithms) {
            const auto library = std::bit_cast<cublasLtMatmulAlgo_t>(algorithm);
            int32_t parts = 0;
            size_t written = 0;
            ASSERT_EQ(
                cublasLtMatmulAlgoConfigGetAttribute(&library, CUBLASLT_ALGO_CONFIG_SPLITK_NUM,
                                                     &parts, sizeof(parts), &written),
                CUBLAS_STATUS_SUCCESS);
            ++proposals;
            cut += parts > 1;
            std::string first;
            for (int run = 0; run < 4; ++run) {
              CopyAsync(c.view(), start.view(), stream.view());
              ASSERT_TRUE((*plan)
                              ->Run((*plans)->handle(), algorithm,
                                    {.a = a.view().data, .b = b.view().data, .c = c.view().data},
                                    stream.view())
                              .ok());
              const Tensor host = CopyToHost(c.view(), stream.view());
              const std::string bytes(static_cast<const char*>(host.view().data),
                                      static_cast<size_t>(host.view().bytes()));
              if (run == 0) first = bytes;
              ASSERT_TRUE(bytes == first) << key.ToString() << ", a sum in " << parts << " parts";
            }
          }
        }
  EXPECT_GT(cut, 0) << "of " << proposals << " proposals none cuts its sum: nothing was tested";
}
#endif  // MUSTER_WITH_CUDA

}  // namespace
}  // namespace muster::kernels
