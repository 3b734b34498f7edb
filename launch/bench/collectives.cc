#include "launch/bench/collectives.h"

#include <functional>
#include <memory>
#include <numeric>
#include <string>

#include "absl/strings/str_format.h"
#include "kernels/base/error.h"
#include "launch/bench/stopwatch.h"
#include "parallel/comm/collectives.h"

namespace muster::launch {
namespace {

using kernels::Device;
using kernels::DeviceType;
using kernels::DType;
using kernels::StreamView;
using kernels::TensorView;
using parallel::ProcessGroup;

struct Limit {
  double bytes = 0;  // a second; 0: none known
  std::string text;
};

absl::StatusOr<Limit> LimitOf(Device device) {
  if (device.type == DeviceType::kCpu) {
    ASSIGN_OR_RETURN(const Ceilings ceilings, MeasureCeilings(device, DType::kFloat32));
    return Limit{ceilings.copy_bytes / 2, "bytes of a copy within memory, measured in this run"};
  }
  const std::string product = kernels::ProductName(device);
  for (const char* known : {"H100 80GB HBM3", "H200"}) {
    if (product.find(known) != std::string::npos) {
      return Limit{450e9, "NVLink 4 one way, by the data sheet: 450 GB/s"};
    }
  }
  return Limit{0, "none known for " + product};
}

struct Case {
  const char* name;
  double share;  // what each rank sends, in (n - 1) / n of the tensor
  std::function<absl::Status(StreamView)> run;
};

// The slowest rank's time, so that all ranks print the same.
absl::StatusOr<double> Slowest(double seconds, Stopwatch& watch, const ProcessGroup& group) {
  ASSIGN_OR_RETURN(const TensorView on_device, watch.Zeros(DType::kFloat64, {1}));
  kernels::CopyAsync(on_device.data, &seconds, sizeof(seconds), watch.stream());
  RETURN_IF_ERROR(parallel::AllReduce(on_device, parallel::ReduceOp::kMax, group, watch.stream()));
  kernels::CopyAsync(&seconds, on_device.data, sizeof(seconds), watch.stream());
  RETURN_IF_ERROR(watch.stream().Synchronize());
  return seconds;
}

absl::Status AddSize(int64_t bytes, const Limit& limit, const ProcessGroup& group, Stopwatch& watch,
                     BenchTable& table) {
  const int64_t n = group.size(), unit = n * int64_t{sizeof(float)};
  const int64_t count = (bytes + unit - 1) / unit * n;
  ASSIGN_OR_RETURN(const TensorView all, watch.Random(DType::kFloat32, {count}));
  // Sums of zeros stay finite however often they are repeated.
  ASSIGN_OR_RETURN(const TensorView other, watch.Zeros(DType::kFloat32, {count}));
  const int64_t begin = group.rank() * count / n, end = begin + count / n;
  const TensorView part = all.Slice(0, begin, end), other_part = other.Slice(0, begin, end);
  const Case cases[] = {
      {"all_reduce", 2,
       [&](StreamView s) { return AllReduce(other, parallel::ReduceOp::kSum, group, s); }},
      {"reduce_scatter", 1,
       [&](StreamView s) {
         return ReduceScatter(other, other_part, parallel::ReduceOp::kSum, group, s);
       }},
      {"all_gather", 1, [&](StreamView s) { return AllGather(part, all, group, s); }},
      {"all_to_all", 1, [&](StreamView s) { return AllToAllEqual(all, other, group, s); }},
  };
  for (const Case& one : cases) {
    absl::Status status;
    const auto run = [&] {
      const absl::Status made = one.run(watch.stream());
      if (status.ok()) status = made;
    };
    // A fixed number of runs: ranks must make the same calls.
    ASSIGN_OR_RETURN(const double mine, watch.MedianOf(15, run));
    RETURN_IF_ERROR(status);
    ASSIGN_OR_RETURN(const double seconds, Slowest(mine, watch, group));
    const double sent = one.share * static_cast<double>(count * 4) * static_cast<double>(n - 1) /
                        static_cast<double>(n);
    table.rows.push_back({.name = absl::StrFormat("%s %.3g MiB", one.name,
                                                  static_cast<double>(count * 4) / 1048576.0),
                          .seconds = seconds,
                          .rate = sent / seconds * 1e-9,
                          .limit = limit.bytes * 1e-9,
                          .unit = "GB/s",
                          .gauges = watch.gauges()});
  }
  watch.FreeTensors();
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<BenchTable> BenchCollectives(const std::vector<int64_t>& bytes, Device device,
                                            parallel::World& world) {
  if (world.size() < 2) {
    return absl::FailedPreconditionError(
        "collectives want at least 2 ranks, found 1; start it with mpirun -np N");
  }
  ASSIGN_OR_RETURN(const Limit limit, LimitOf(device));
  std::vector<int> ranks(static_cast<size_t>(world.size()));
  std::iota(ranks.begin(), ranks.end(), 0);
  ASSIGN_OR_RETURN(const std::unique_ptr<ProcessGroup> group,
                   world.NewGroup("bench", ranks, Stopwatch::kCategory, device));
  ASSIGN_OR_RETURN(const std::unique_ptr<Stopwatch> watch, Stopwatch::Create(device));
  BenchTable table;
  table.title = "collectives, bus bandwidth";
  table.facts = {{"device", DeviceText(device)},
                 {"ranks", std::to_string(world.size())},
                 {"limit", limit.text}};
  for (const int64_t size : bytes) {
    RETURN_IF_ERROR(AddSize(size, limit, *group, *watch, table));
  }
  return table;
}

}  // namespace muster::launch
