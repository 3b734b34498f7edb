#include "runtime/train/agreed_peak.h"

#include <algorithm>
#include <bit>
#include <cstdlib>
#include <thread>

#include "absl/strings/str_cat.h"
#include "kernels/base/error.h"
#include "runtime/train/training_state.h"

namespace muster::runtime {
namespace {

// What rank 0 found, as text for the others: "<flops> <label>", or "!" and its error.
std::string Measure(const ResolvedJob& job, parallel::World& world) {
  kernels::Device device;
  if (job.job.device() == CUDA) device = {kernels::DeviceType::kCuda, world.local_rank()};
  absl::StatusOr<Peak> peak = ParsePeak(job.job.goodput().peak(), device,
                                        StorageDType(job.job.precision().compute()), /*threads=*/1);
  if (!peak.ok()) return absl::StrCat("!", peak.status().message());
  const int cores = static_cast<int>(std::max(1u, std::thread::hardware_concurrency()));
  if (device.type == kernels::DeviceType::kCpu && peak->label.starts_with("peak=measured") &&
      world.local_size() > cores) {
    peak->flops *= static_cast<double>(cores) / world.local_size();
    peak->label = absl::StrCat("peak=measured, ", cores, " cores / ", world.local_size(), " ranks");
  }
  return absl::StrCat(absl::Hex(std::bit_cast<uint64_t>(peak->flops)), " ", peak->label);
}

}  // namespace

absl::StatusOr<Peak> AgreedPeak(const ResolvedJob& job, parallel::World& world) {
  ASSIGN_OR_RETURN(const std::vector<std::string> all,
                   world.GatherText(world.rank() == 0 ? Measure(job, world) : ""));
  const std::string& answer = all.front();
  if (answer.starts_with("!")) return absl::InvalidArgumentError(answer.substr(1));
  const size_t space = answer.find(' ');
  const uint64_t bits = std::strtoull(answer.c_str(), nullptr, 16);
  return Peak{.flops = std::bit_cast<double>(bits), .label = answer.substr(space + 1)};
}

}  // namespace muster::runtime
