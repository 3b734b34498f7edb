#include <gtest/gtest.h>

#include <string>
#include <tuple>
#include <vector>

#include "kernels/ops/grouped_matmul.h"
#include "tests/support/kernels/on_cuda.h"
#include "tests/support/kernels/tolerance.h"

namespace muster::kernels {
namespace {

struct Case {
  const char* name;
  int64_t rows, n, k;
  std::vector<double> offsets;
};

void PrintTo(const Case& c, std::ostream* out) { *out << c.name; }

class CudaGroupedMatmul : public OnCuda,
                          public ::testing::WithParamInterface<std::tuple<Case, DType>> {
 protected:
  const Case c_ = std::get<0>(GetParam());
  const DType dtype_ = std::get<1>(GetParam());
  const int64_t num_experts_ = static_cast<int64_t>(c_.offsets.size()) - 1;
  const Tensor x_ = RandomTensor(dtype_, {c_.rows, c_.k}, "x");
  const Tensor w_ = RandomTensor(dtype_, {num_experts_, c_.n, c_.k}, "w");
  const Tensor d_y_ = RandomTensor(dtype_, {c_.rows, c_.n}, "d_y");
  const Tensor offsets_ = TensorOf(DType::kInt64, {num_experts_ + 1}, c_.offsets);

  // Runs `op` on CPU and on CUDA from equal outputs, and compares all of them: what the CPU does
  // not touch must stay as it was.
  template <typename Args, typename Cpu, typename Cuda>
  void Check(Args args, TensorView Args::*out, std::vector<TensorView Args::*> inputs, Cpu&& cpu,
             Cuda&& cuda) {
    const Stream stream = MakeCudaStream();
    Args twin = args;
    const Tensor device_out = CopyToCuda(args.*out, stream.view());
    twin.*out = device_out.view();
    std::vector<Tensor> device;
    for (TensorView Args::*input : inputs) {
      device.push_back(CopyToCuda(args.*input, stream.view()));
      twin.*input = device.back().view();
    }
    cpu(args);
    cuda(twin, stream.view());
    ASSERT_TRUE(stream.view().Synchronize().ok()) << stream.view().Synchronize();
    const Tensor actual = CopyToHost(device_out.view(), stream.view());
    EXPECT_TRUE(IsClose(actual.view(), Values(args.*out)));
  }
};

TEST_P(CudaGroupedMatmul, ForwardEqualsCpu) {
  using Args = GroupedMatmulForwardArgs;
  const Tensor y = RandomTensor(dtype_, {c_.rows, c_.n}, "y");
  Check<Args>(
      {.x = x_.view(), .w = w_.view(), .y = y.view(), .offsets = offsets_.view()}, &Args::y,
      {&Args::x, &Args::w, &Args::offsets},
      [](const Args& args) { cpu::GroupedMatmulForward(args); },
      [](const Args& args, StreamView s) { GroupedMatmulForward(args, s); });
}

TEST_P(CudaGroupedMatmul, InputGradientEqualsCpu) {
  using Args = GroupedMatmulBackwardInputArgs;
  const Tensor d_x = RandomTensor(dtype_, {c_.rows, c_.k}, "d_x");
  Check<Args>(
      {.d_y = d_y_.view(), .w = w_.view(), .d_x = d_x.view(), .offsets = offsets_.view()},
      &Args::d_x, {&Args::d_y, &Args::w, &Args::offsets},
      [](const Args& args) { cpu::GroupedMatmulBackwardInput(args); },
      [](const Args& args, StreamView s) { GroupedMatmulBackwardInput(args, s); });
}

TEST_P(CudaGroupedMatmul, WeightGradientEqualsCpu) {
  using Args = GroupedMatmulBackwardWeightArgs;
  const Tensor d_w = RandomTensor(DType::kFloat32, {num_experts_, c_.n, c_.k}, "d_w");
  Check<Args>(
      {.d_y = d_y_.view(), .x = x_.view(), .d_w = d_w.view(), .offsets = offsets_.view()},
      &Args::d_w, {&Args::d_y, &Args::x, &Args::offsets},
      [](const Args& args) { cpu::GroupedMatmulBackwardWeight(args); },
      [](const Args& args, StreamView s) { GroupedMatmulBackwardWeight(args, s); });
}

// Experts without rows, rows without an expert, groups that end inside a tile, and more experts
// than the 32 that a warp looks at together.
std::vector<double> ManyExperts() {
  std::vector<double> offsets = {0};
  for (int e = 0; e < 70; ++e) offsets.push_back(offsets.back() + e * 37 % 11);
  return offsets;
}
INSTANTIATE_TEST_SUITE_P(
    GroupedMatmul, CudaGroupedMatmul,
    ::testing::Combine(::testing::Values(Case{"Odd", 24, 9, 13, {0, 0, 7, 7, 8, 22}},
                                         Case{"Small", 24, 16, 8, {0, 0, 7, 7, 8, 22}},
                                         Case{"Tiles", 700, 264, 136, {0, 128, 128, 300, 690}},
                                         Case{"OneExpert", 300, 128, 256, {0, 300}},
                                         Case{"NoRowsInUse", 64, 32, 32, {0, 0, 0}},
                                         Case{"ManyExperts", 400, 40, 72, ManyExperts()}),
                       ::testing::Values(DType::kFloat32, DType::kBFloat16)),
    [](const ::testing::TestParamInfo<std::tuple<Case, DType>>& info) {
      return std::string(std::get<0>(info.param).name) + "_" + Name(std::get<1>(info.param));
    });

}  // namespace
}  // namespace muster::kernels
