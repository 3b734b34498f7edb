#pragma once
// Times work on a stream of one device, and the two ceilings that most of it runs under: square
// matrix products and a copy, measured in the same run on random data.
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "kernels/device/gauges.h"
#include "kernels/device/span.h"
#include "kernels/device/stream.h"
#include "kernels/tensor/tensor.h"
#include "parallel/comm/time_category.h"

namespace muster::launch {

struct Ceilings {
  double matmul_flops = 0;  // FLOP/s of kernels::MeasureMatmulRate
  double copy_bytes = 0;    // bytes/s read and written by a copy within the device's memory
};
absl::StatusOr<Ceilings> MeasureCeilings(kernels::Device device, kernels::DType dtype);

class Stopwatch {
 public:
  // What runs are booked under; a group whose collectives are timed must have it, too.
  static constexpr parallel::TimeCategory kCategory = parallel::kExposedDp;
  static absl::StatusOr<std::unique_ptr<Stopwatch>> Create(kernels::Device device);
  kernels::StreamView stream() const { return stream_.view(); }

  // Median seconds of `run`, which enqueues on stream(), after three warm-ups: 5 to 15 runs, as
  // many as half a second allows, and one more behind which gauges() are read. Errors: the
  // stream's.
  absl::StatusOr<double> Median(const std::function<void()>& run) { return MedianOf(5, 15, run); }
  // The same with `runs` runs: ranks that run collectives must agree on it.
  absl::StatusOr<double> MedianOf(size_t runs, const std::function<void()>& run) {
    return MedianOf(runs, runs, run);
  }
  // Of the device, under the work that was measured last.
  const kernels::GaugeReading& gauges() const { return reading_; }
  // Standard normal values, or zeros; freed with the stopwatch. Errors: out of memory.
  absl::StatusOr<kernels::TensorView> Random(kernels::DType dtype, kernels::Shape shape);
  absl::StatusOr<kernels::TensorView> Zeros(kernels::DType dtype, kernels::Shape shape);
  void FreeTensors() { tensors_.clear(); }  // nothing may be enqueued that uses them

 private:
  absl::StatusOr<double> MedianOf(size_t fewest, size_t most, const std::function<void()>& run);
  explicit Stopwatch(kernels::Stream stream) : stream_(std::move(stream)) {}
  kernels::Stream stream_;
  std::unique_ptr<kernels::Timeline> timeline_;
  std::vector<kernels::Tensor> tensors_;
  std::unique_ptr<kernels::Gauges> gauges_;  // null: none here
  kernels::GaugeReading reading_;
};

// "712.3 TFLOP/s of 8192^3 products, 4214 GB/s of a copy, in this run": what most work runs under.
std::string CeilingText(const Ceilings& ceilings, kernels::Device device);

// "NVIDIA H200", or "cpu".
std::string DeviceText(kernels::Device device);

}  // namespace muster::launch
