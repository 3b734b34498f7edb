#include "launch/bench/stopwatch.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_format.h"
#include "kernels/base/error.h"
#include "kernels/ops/cast.h"
#include "kernels/ops/matmul_rate.h"

namespace muster::launch {

using kernels::Device;
using kernels::DeviceType;
using kernels::TensorView;

absl::StatusOr<std::unique_ptr<Stopwatch>> Stopwatch::Create(Device device) {
  const bool cpu = device.type == DeviceType::kCpu;
  ASSIGN_OR_RETURN(
      kernels::Stream stream,
      kernels::Stream::Create(
          device, cpu ? kernels::StreamMode::kInline : kernels::StreamMode::kQueue, "bench"));
  std::unique_ptr<Stopwatch> watch(new Stopwatch(std::move(stream)));
  watch->gauges_ = kernels::Gauges::Open(device);
  ASSIGN_OR_RETURN(watch->timeline_, kernels::Timeline::Create(watch->stream(), kCategory + 1));
  return watch;
}

absl::StatusOr<double> Stopwatch::MedianOf(size_t fewest, size_t most,
                                           const std::function<void()>& run) {
  constexpr int kWarmUps = 3;
  constexpr double kEnough = 0.5;  // seconds
  for (int i = 0; i < kWarmUps; ++i) run();
  std::vector<double> seconds;
  double total = 0;
  while (seconds.size() < fewest || (seconds.size() < most && total < kEnough)) {
    RETURN_IF_ERROR(timeline_->Collect().status());
    timeline_->Enter(kCategory);
    run();
    timeline_->Enter(0);
    ASSIGN_OR_RETURN(const std::vector<int64_t> ns, timeline_->Collect());
    seconds.push_back(static_cast<double>(ns[kCategory]) * 1e-9);
    total += seconds.back();
  }
  run();
  if (gauges_ != nullptr) reading_ = gauges_->Read();
  RETURN_IF_ERROR(timeline_->Collect().status());
  std::sort(seconds.begin(), seconds.end());
  return seconds[seconds.size() / 2];
}

absl::StatusOr<TensorView> Stopwatch::Zeros(kernels::DType dtype, kernels::Shape shape) {
  ASSIGN_OR_RETURN(kernels::Tensor tensor,
                   kernels::Tensor::Allocate(dtype, shape, stream().device()));
  tensors_.push_back(std::move(tensor));
  return tensors_.back().view();
}

absl::StatusOr<TensorView> Stopwatch::Random(kernels::DType dtype, kernels::Shape shape) {
  ASSIGN_OR_RETURN(const TensorView x, Zeros(dtype, shape));
  kernels::Shape begin = shape;
  for (int dim = 0; dim < shape.rank(); ++dim) begin.set(dim, 0);
  kernels::FillNormal({.x = x,
                       .global_shape = shape,
                       .begin = begin,
                       .key = kernels::MakePhiloxKey(tensors_.size(), "bench"),
                       .std = 1.0f},
                      stream());
  return x;
}

absl::StatusOr<Ceilings> MeasureCeilings(Device device, kernels::DType dtype) {
  Ceilings ceilings;
  ASSIGN_OR_RETURN(ceilings.matmul_flops, kernels::MeasureMatmulRate(device, dtype, /*threads=*/1));
  ASSIGN_OR_RETURN(const std::unique_ptr<Stopwatch> watch, Stopwatch::Create(device));
  // Far more than the caches hold.
  const int64_t count = device.type == DeviceType::kCpu ? int64_t{1} << 26 : int64_t{1} << 28;
  ASSIGN_OR_RETURN(const TensorView from, watch->Random(kernels::DType::kFloat32, {count}));
  ASSIGN_OR_RETURN(const TensorView to, watch->Zeros(kernels::DType::kFloat32, {count}));
  ASSIGN_OR_RETURN(const double seconds,
                   watch->Median([&] { kernels::CopyAsync(to, from, watch->stream()); }));
  ceilings.copy_bytes = 2.0 * static_cast<double>(from.bytes()) / seconds;
  return ceilings;
}

std::string CeilingText(const Ceilings& ceilings, Device device) {
  return absl::StrFormat("%.4g TFLOP/s of %s products, %.4g GB/s of a copy, in this run",
                         ceilings.matmul_flops * 1e-12,
                         device.type == DeviceType::kCpu ? "1024^3" : "8192^3",
                         ceilings.copy_bytes * 1e-9);
}

std::string DeviceText(Device device) {
  const std::string product = kernels::ProductName(device);
  return product.empty() ? kernels::Name(device) : product;
}

}  // namespace muster::launch
