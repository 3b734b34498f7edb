#include "runtime/job/peak.h"

#include <algorithm>
#include <charconv>
#include <cmath>
#include <optional>
#include <system_error>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "kernels/base/error.h"
#include "kernels/ops/matmul_rate.h"
#include "runtime/job/nearest_name.h"

namespace muster::runtime {
namespace {

struct Row {
  const char* name;     // of the config
  const char* product;  // words of the driver's name
  const char* label;
  double teraflops;
};

constexpr Row kTable[] = {
    {"gb200", "GB200", "GB200 bf16 dense", 2500},
    {"gb200-fp8", nullptr, "GB200 fp8 dense", 5000},
    {"gb200-fp4", nullptr, "GB200 fp4 dense", 10000},
    {"b200", "B200", "B200 bf16 dense", 2250},
    {"b200-fp8", nullptr, "B200 fp8 dense", 4500},
    {"b200-fp4", nullptr, "B200 fp4 dense", 9000},
    {"h200-sxm", "H200", "H200 SXM bf16 dense", 989.5},
    {"h200-sxm-fp8", nullptr, "H200 SXM fp8 dense", 1979},
    {"h100-sxm", "H100 80GB HBM3", "H100 SXM bf16 dense", 989.5},
    {"h100-sxm-fp8", nullptr, "H100 SXM fp8 dense", 1979},
    {"h100-pcie", "H100 PCIe", "H100 PCIe bf16 dense", 756},
    {"h100-pcie-fp8", nullptr, "H100 PCIe fp8 dense", 1513},
    {"a100", "A100", "A100 bf16 dense", 312},
};

// Whether `product` stands in the name as whole words: "A100" in "NVIDIA A100-SXM4-80GB", but no
// "H200" in "NVIDIA GH200 480GB".
bool Names(std::string_view product_name, std::string_view product) {
  const size_t at = product_name.find(product);
  if (at == std::string_view::npos) return false;
  const size_t end = at + product.size();
  const bool begins = at == 0 || !absl::ascii_isalnum(product_name[at - 1]);
  return begins && (end == product_name.size() || !absl::ascii_isalnum(product_name[end]));
}

// Has less than the whole product of that name: slices of one, and cards with less power.
bool IsLess(std::string_view product_name) {
  return Names(product_name, "MIG") || Names(product_name, "NVL");
}

Peak PeakOf(const Row& row) { return {row.teraflops * 1e12, row.label}; }

absl::StatusOr<Peak> Measured(kernels::Device device, kernels::DType dtype, int threads) {
  const kernels::DType timed = dtype == kernels::DType::kFloat64 ? kernels::DType::kFloat32 : dtype;
  const absl::StatusOr<double> rate = kernels::MeasureMatmulRate(device, timed, threads);
  if (!rate.ok()) return kernels::Annotate(rate.status(), "cannot measure goodput.peak");
  std::string label = absl::StrCat("peak=measured ", kernels::Name(timed));
  if (device.type == kernels::DeviceType::kCpu) {
    absl::StrAppend(&label, ", ", threads, threads == 1 ? " thread" : " threads");
  }
  return Peak{*rate, label};
}

std::optional<double> NumberOf(const std::string& text) {
  double value = 0;
  const char* end = text.data() + text.size();
  const auto [stop, error] = std::from_chars(text.data(), end, value);
  if (error != std::errc() || stop != end) return std::nullopt;
  return value;
}

}  // namespace

std::vector<std::string> PeakNames() {
  std::vector<std::string> names;
  for (const Row& row : kTable) names.push_back(row.name);
  return names;
}

absl::StatusOr<Peak> PeakByName(const std::string& name) {
  for (const Row& row : kTable) {
    if (name == row.name) return PeakOf(row);
  }
  return absl::NotFoundError(absl::StrCat(
      "goodput.peak: wanted auto, measured, a device's name or TFLOP/s per device, found '", name,
      "'", DidYouMean(name, PeakNames())));
}

absl::StatusOr<Peak> PeakOfProduct(std::string_view product_name) {
  for (const Row& row : kTable) {
    const bool matches = row.product != nullptr && Names(product_name, row.product);
    if (matches && !IsLess(product_name)) return PeakOf(row);
  }
  return absl::NotFoundError(
      absl::StrCat("goodput.peak: auto knows no peak of '", std::string(product_name),
                   "'; set its bf16 TFLOP/s as a number, one of the names ", PeakNames().front(),
                   " ... ", PeakNames().back(), ", or measured"));
}

absl::Status CheckPeakText(const std::string& text) {
  if (text == "auto" || text == "measured") return absl::OkStatus();
  const std::optional<double> teraflops = NumberOf(text);
  if (!teraflops) return PeakByName(text).status();
  if (*teraflops > 0 && std::isfinite(*teraflops)) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat(
      "goodput.peak: wanted a positive number of TFLOP/s per device, found '", text, "'"));
}

absl::StatusOr<Peak> ParsePeak(const std::string& text, kernels::Device device,
                               kernels::DType dtype, int threads) {
  if (text == "measured") return Measured(device, dtype, threads);
  if (text == "auto") {
    const bool in_table =
        device.type == kernels::DeviceType::kCuda && dtype == kernels::DType::kBFloat16;
    if (in_table) return PeakOfProduct(kernels::ProductName(device));
    return Measured(device, dtype, threads);
  }
  RETURN_IF_ERROR(CheckPeakText(text));
  const std::optional<double> teraflops = NumberOf(text);
  if (!teraflops) return PeakByName(text);
  return Peak{*teraflops * 1e12, absl::StrFormat("peak=%.3f TFLOP/s as given", *teraflops)};
}

}  // namespace muster::runtime
