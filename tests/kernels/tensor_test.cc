#include "kernels/tensor/tensor.h"

#include <gtest/gtest.h>

#include "tests/support/kernels/host_tensor.h"

namespace muster::kernels {
namespace {

// int32 [2, 3, 4] holding 0 .. 23.
Tensor Counting() {
  std::vector<double> values(24);
  for (size_t i = 0; i < values.size(); ++i) values[i] = static_cast<double>(i);
  return TensorOf(DType::kInt32, {2, 3, 4}, values);
}

TEST(Shape, ComparesByRankAndDims) {
  EXPECT_EQ((Shape{2, 3}), (Shape{2, 3}));
  EXPECT_FALSE((Shape{2, 3}) == (Shape{3, 2}));
  EXPECT_FALSE((Shape{2, 1}) == (Shape{2}));
  EXPECT_EQ((Shape{2, 3, 4}).num_elements(), 24);
  EXPECT_EQ(Shape{}.num_elements(), 1);
  EXPECT_EQ((Shape{2, 0, 4}).num_elements(), 0);
  EXPECT_EQ((Shape{2, 3}).ToString(), "[2, 3]");
}

TEST(Tensor, IsZeroedAlignedAndContiguous) {
  const Tensor tensor = MakeTensor(DType::kBFloat16, {3, 5});
  EXPECT_EQ(Values(tensor.view()), std::vector<double>(15, 0.0));
  EXPECT_EQ(reinterpret_cast<uintptr_t>(tensor.view().data) % kMemoryAlignment, 0u);
  EXPECT_TRUE(tensor.view().IsContiguous());
  EXPECT_EQ(tensor.view().bytes(), 30);
  EXPECT_EQ(tensor.view().ToString(), "bf16[3, 5] on cpu");
}

TEST(Tensor, MovesItsMemory) {
  Tensor from = Counting();
  const void* data = from.view().data;
  const Tensor to = std::move(from);
  EXPECT_EQ(to.view().data, data);
  EXPECT_EQ(GetValue(to.view(), 23), 23);
}

TEST(TensorView, SlicesShareMemoryInEveryDim) {
  const Tensor tensor = Counting();
  EXPECT_EQ(Values(tensor.view().Slice(0, 1, 2).Slice(1, 0, 1)),
            (std::vector<double>{12, 13, 14, 15}));
  EXPECT_EQ(Values(tensor.view().Slice(1, 1, 2)),
            (std::vector<double>{4, 5, 6, 7, 16, 17, 18, 19}));
  EXPECT_EQ(Values(tensor.view().Slice(2, 3, 4)), (std::vector<double>{3, 7, 11, 15, 19, 23}));
  EXPECT_EQ(tensor.view().Slice(2, 1, 1).num_elements(), 0);
  SetValue(tensor.view().Slice(2, 3, 4), 1, 70);
  EXPECT_EQ(GetValue(tensor.view(), 7), 70);
}

TEST(TensorView, OnlyOuterSlicesAreContiguous) {
  const Tensor tensor = Counting();
  EXPECT_TRUE(tensor.view().Slice(0, 1, 2).IsContiguous());
  EXPECT_TRUE(tensor.view().Slice(0, 1, 2).Slice(1, 1, 3).IsContiguous());
  EXPECT_FALSE(tensor.view().Slice(1, 0, 2).IsContiguous());
  EXPECT_FALSE(tensor.view().Slice(2, 0, 1).IsContiguous());
}

TEST(TensorView, ReshapeKeepsTheElements) {
  const Tensor tensor = Counting();
  const TensorView flat = tensor.view().Reshape({4, 6});
  EXPECT_EQ(Values(flat), Values(tensor.view()));
  EXPECT_EQ(flat.shape, (Shape{4, 6}));
  EXPECT_EQ(Values(flat.Slice(0, 3, 4)), (std::vector<double>{18, 19, 20, 21, 22, 23}));
}

TEST(TensorView, CopiesAndZeroesInStreamOrder) {
  auto stream = Stream::Create({}, StreamMode::kQueue, "copy");
  ASSERT_TRUE(stream.ok());
  const Tensor from = Counting(), to = MakeTensor(DType::kInt32, {2, 3, 4});
  CopyAsync(to.view(), from.view(), stream->view());
  FillZeroAsync(from.view(), stream->view());
  ASSERT_TRUE(stream->view().Synchronize().ok());
  EXPECT_EQ(Values(to.view()), Values(Counting().view()));
  EXPECT_EQ(Values(from.view()), std::vector<double>(24, 0.0));
}

TEST(TensorDeathTest, RefusesWrongUse) {
  const Tensor tensor = Counting();
  const TensorView view = tensor.view();
  EXPECT_DEATH(view.as<float>(), "tensor is int32, wanted fp32");
  EXPECT_DEATH(view.Slice(1, 2, 4), "slice \\[2, 4\\) of dim 1 of int32\\[2, 3, 4\\]");
  EXPECT_DEATH(view.Slice(3, 0, 1), "of dim 3");
  EXPECT_DEATH(view.Reshape({5, 5}), "reshaped to \\[5, 5\\]");
  EXPECT_DEATH(view.Slice(2, 0, 2).Reshape({12}), "reshaped");
  EXPECT_DEATH((Shape{1, 1, 1, 1, 1, 1}), "kMaxRank");
}

}  // namespace
}  // namespace muster::kernels
