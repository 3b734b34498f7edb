#include "runtime/job/peak.h"

#include <gtest/gtest.h>

namespace muster::runtime {
namespace {

constexpr kernels::Device kCpu{kernels::DeviceType::kCpu, 0};

absl::StatusOr<Peak> Parse(const std::string& text) {
  return ParsePeak(text, kCpu, kernels::DType::kFloat32, 1);
}

TEST(Peak, DevicesAreKnownByTheirDriversNames) {
  const std::pair<const char*, double> cases[] = {
      {"NVIDIA H100 80GB HBM3", 989.5e12}, {"NVIDIA H200", 989.5e12},
      {"NVIDIA H100 PCIe", 756e12},        {"NVIDIA B200", 2250e12},
      {"NVIDIA GB200", 2500e12},           {"NVIDIA A100-SXM4-80GB", 312e12},
  };
  for (const auto& [product, flops] : cases) {
    const auto peak = PeakOfProduct(product);
    ASSERT_TRUE(peak.ok()) << peak.status();
    EXPECT_EQ(peak->flops, flops) << product;
  }
  EXPECT_EQ(PeakOfProduct("Some Other GPU").status().code(), absl::StatusCode::kNotFound);
}

// A number of another product, or of a whole one for a part of it, would be a wrong goodput.
TEST(Peak, AProductThatOnlyResemblesOneIsNotKnown) {
  for (const char* product :
       {"NVIDIA H200 NVL", "NVIDIA H200 MIG 1g.18gb", "NVIDIA GH200 480GB", "NVIDIA H100 NVL",
        "NVIDIA A100-SXM4-40GB MIG 3g.20gb", "NVIDIA H2000", "NVIDIA A100X"}) {
    const absl::Status status = PeakOfProduct(product).status();
    EXPECT_EQ(status.code(), absl::StatusCode::kNotFound) << product;
    EXPECT_NE(status.message().find("set its bf16 TFLOP/s"), absl::string_view::npos) << status;
  }
}

TEST(Peak, NamesGiveTheirRows) {
  EXPECT_EQ(Parse("h200-sxm")->flops, 989.5e12);
  EXPECT_EQ(Parse("h200-sxm")->label, "H200 SXM bf16 dense");
  EXPECT_EQ(Parse("b200-fp4")->flops, 9000e12);
  for (const std::string& name : PeakNames()) {
    ASSERT_TRUE(Parse(name).ok()) << name;
    EXPECT_LE(Parse(name)->label.size(), 48u);
  }
}

TEST(Peak, NumbersAreTeraflops) {
  EXPECT_EQ(Parse("312.5")->flops, 312.5e12);
  EXPECT_EQ(Parse("312.5")->label, "peak=312.500 TFLOP/s as given");
  for (const char* text : {"0", "-3", "nan", "inf", "1e999", ""}) {
    EXPECT_FALSE(Parse(text).ok()) << text;
  }
}

TEST(Peak, AMisspeltNameIsToldTheNearest) {
  const absl::Status status = Parse("h20-sxm").status();
  EXPECT_NE(status.message().find("did you mean 'h200-sxm'"), absl::string_view::npos) << status;
}

TEST(Peak, OnCpuAutoMeasures) {
  const auto peak = Parse("auto");
  ASSERT_TRUE(peak.ok()) << peak.status();
  EXPECT_EQ(peak->label, "peak=measured fp32, 1 thread");
  EXPECT_GT(peak->flops, 1e8);
  EXPECT_LT(peak->flops, 1e14);
}

}  // namespace
}  // namespace muster::runtime
