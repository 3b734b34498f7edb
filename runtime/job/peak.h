#pragma once
// The limit that goodput and MFU are measured against: dense matrix-product FLOP/s of one device,
// with a label that is printed wherever the ratio is.
//
// The table holds the makers' data-sheet figures without sparsity (NVIDIA A100, H100, H200, B200
// and GB200 data sheets). A CPU has no such figure worth the name: there the rate that its own
// matrix products reach is measured.
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "kernels/base/dtype.h"
#include "kernels/device/device.h"

namespace muster::runtime {

struct Peak {
  double flops = 0;   // FLOP/s of one device
  std::string label;  // "H200 SXM bf16 dense", "peak=measured fp32, 1 thread"; at most 48 bytes
};

// The names that a config may give: "h200-sxm", "h200-sxm-fp8", ...
std::vector<std::string> PeakNames();

// By a name of PeakNames. Errors: NotFound with the nearest name.
absl::StatusOr<Peak> PeakByName(const std::string& name);

// The bf16 row of a device by what its driver calls it ("NVIDIA H100 80GB HBM3"). Errors: NotFound,
// with what to set instead.
absl::StatusOr<Peak> PeakOfProduct(std::string_view product_name);

// Whether ParsePeak knows the text; measures nothing. Errors: as ParsePeak.
absl::Status CheckPeakText(const std::string& text);

// What goodput.peak says, for a job that computes in `dtype` on `device`:
//   "auto"      on CUDA in bf16 the table's row of this device; else as "measured"
//   "measured"  kernels::MeasureMatmulRate with `threads` (fp64, which it does not time, as fp32)
//   a name      of PeakNames
//   a number    TFLOP/s per device
// Errors: none of these, a number that is not positive and finite, or a measurement that fails.
absl::StatusOr<Peak> ParsePeak(const std::string& text, kernels::Device device,
                               kernels::DType dtype, int threads);

}  // namespace muster::runtime
