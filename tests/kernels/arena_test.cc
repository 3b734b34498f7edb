#include "kernels/tensor/arena.h"

#include <gtest/gtest.h>

#include "tests/support/kernels/host_tensor.h"

namespace muster::kernels {
namespace {

char* Begin(const TensorView& view) { return static_cast<char*>(view.data); }
bool Overlap(const TensorView& a, const TensorView& b) {
  return Begin(a) < Begin(b) + b.bytes() && Begin(b) < Begin(a) + a.bytes();
}

Arena Allocate(const ArenaPlan& plan) {
  auto arena = Arena::Allocate(plan, {});
  MUSTER_CHECK_OK(arena.status());
  return *std::move(arena);
}

TEST(Arena, AllocatesExactlyThePlan) {
  ArenaPlan plan;
  TensorView weight, activation, scratch;
  plan.Add(&weight, "weight", DType::kFloat32, {100}, Lifetime::kPersistent);
  plan.Add(&activation, "activation", DType::kBFloat16, {7, 3}, Lifetime::kActivation);
  {
    ArenaPlan::ScratchScope scope(plan);
    plan.Add(&scratch, "scratch", DType::kFloat64, {5}, Lifetime::kScratch);
  }
  EXPECT_EQ(plan.bytes(Lifetime::kPersistent), 512);
  EXPECT_EQ(plan.bytes(Lifetime::kActivation), 256);
  EXPECT_EQ(plan.bytes(Lifetime::kScratch), 256);
  EXPECT_EQ(plan.total_bytes(), 1024);
  const Arena arena = Allocate(plan);
  EXPECT_EQ(arena.bytes(), plan.total_bytes());
}

TEST(Arena, BindsEveryViewAlignedZeroedAndApart) {
  ArenaPlan plan;
  TensorView views[4];
  plan.Add(&views[0], "a", DType::kFloat32, {3, 5}, Lifetime::kPersistent);
  plan.Add(&views[1], "b", DType::kBFloat16, {1000}, Lifetime::kActivation);
  plan.Add(&views[2], "c", DType::kInt64, {2}, Lifetime::kPersistent);
  ArenaPlan::ScratchScope scope(plan);
  plan.Add(&views[3], "d", DType::kUInt8, {77}, Lifetime::kScratch);
  const Arena arena = Allocate(plan);
  for (const TensorView& view : views) {
    ASSERT_TRUE(view);
    EXPECT_EQ(reinterpret_cast<uintptr_t>(view.data) % kMemoryAlignment, 0u);
    for (double value : Values(view)) EXPECT_EQ(value, 0);
    EXPECT_GE(Begin(view), Begin(views[0]));
    EXPECT_LE(Begin(view) + view.bytes(), Begin(views[0]) + arena.bytes());
    for (const TensorView& other : views) {
      if (&view != &other) EXPECT_FALSE(Overlap(view, other));
    }
  }
  EXPECT_EQ(views[0].ToString(), "fp32[3, 5] on cpu");
  EXPECT_EQ(views[1].dtype, DType::kBFloat16);
}

TEST(ArenaPlan, ScopesSideBySideShareTheirBytes) {
  ArenaPlan plan;
  TensorView weight, first, second;
  plan.Add(&weight, "weight", DType::kUInt8, {256}, Lifetime::kPersistent);
  {
    ArenaPlan::ScratchScope scope(plan);
    plan.Add(&first, "first", DType::kUInt8, {512}, Lifetime::kScratch);
  }
  {
    ArenaPlan::ScratchScope scope(plan);
    plan.Add(&second, "second", DType::kUInt8, {1024}, Lifetime::kScratch);
  }
  EXPECT_EQ(plan.total_bytes(), 256 + 1024);
  const Arena arena = Allocate(plan);
  EXPECT_EQ(first.data, second.data);
  EXPECT_FALSE(Overlap(weight, second));
}

TEST(ArenaPlan, NestedScopesStackTheirBytes) {
  ArenaPlan plan;
  TensorView outer, inner, after, held;
  {
    ArenaPlan::ScratchScope outer_scope(plan);
    plan.Add(&outer, "outer", DType::kUInt8, {256}, Lifetime::kScratch);
    {
      ArenaPlan::ScratchScope inner_scope(plan);
      plan.Add(&inner, "inner", DType::kUInt8, {512}, Lifetime::kScratch);
    }
    plan.Add(&after, "after", DType::kUInt8, {256}, Lifetime::kScratch);
    // Held memory may still be planned after scratch was: scratch lies behind all of it.
    plan.Add(&held, "held", DType::kUInt8, {2048}, Lifetime::kPersistent);
  }
  EXPECT_EQ(plan.bytes(Lifetime::kScratch), 256 + 512);
  const Arena arena = Allocate(plan);
  EXPECT_FALSE(Overlap(outer, inner));
  EXPECT_FALSE(Overlap(outer, after));
  EXPECT_EQ(inner.data, after.data);
  for (const TensorView* scratch : {&outer, &inner, &after}) EXPECT_FALSE(Overlap(held, *scratch));
}

TEST(ArenaPlan, DescribesItsBiggestBlocksFirst) {
  ArenaPlan plan;
  TensorView a, b, c;
  plan.Add(&a, "small", DType::kFloat32, {1}, Lifetime::kPersistent);
  plan.Add(&b, "big", DType::kFloat32, {1000}, Lifetime::kPersistent);
  plan.Add(&c, "middle", DType::kFloat32, {100}, Lifetime::kPersistent);
  EXPECT_EQ(plan.Describe(2), "  4096 bytes  big fp32[1000]\n  512 bytes  middle fp32[100]\n");
}

TEST(Arena, NamesTheBiggestBlockIfThereIsNoRoom) {
  ArenaPlan plan;
  TensorView view;
  plan.Add(&view, "layers.0.weight", DType::kFloat32, {1ll << 50}, Lifetime::kPersistent);
  const absl::Status status = Arena::Allocate(plan, {}).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kResourceExhausted);
  EXPECT_NE(status.message().find("4503599627370496 bytes  layers.0.weight"), std::string::npos)
      << status;
  EXPECT_FALSE(view);
}

TEST(ArenaPlanDeathTest, RefusesScratchOutsideAScope) {
  ArenaPlan plan;
  TensorView view;
  EXPECT_DEATH(plan.Add(&view, "lost", DType::kFloat32, {1}, Lifetime::kScratch),
               "scratch tensor lost added outside a ScratchScope");
}

}  // namespace
}  // namespace muster::kernels
