// The timed search. A first round times proposals once, all of a short product and the first few of
// a long one, a second round the best by the median of some runs. Before each timed run the
// second-level cache is overwritten, as the operators between two products of a training step do.
#include <cuda_runtime.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <utility>
#include <vector>

#include "kernels/base/error.h"
#include "kernels/base/log.h"
#include "kernels/device/cuda_runtime.h"
#include "kernels/device/memory.h"
#include "kernels/ops/cuda/matmul_plan.h"

namespace muster::kernels::cuda {
namespace {

// Of the first round, milliseconds on the device after which it ends, if it has looked at so many.
// The proposals come best guess first.
constexpr float kFirstRound = 120;
constexpr size_t kLeastProposals = 4;
// Of the second; fewer of products that take longer than kLong milliseconds.
constexpr size_t kFinalists = 5, kLongFinalists = 3;
constexpr int kFinalRuns = 5, kLongFinalRuns = 3;
constexpr float kLong = 1;

// Two events, and the memory that timed runs write to.
class Timer {
 public:
  static absl::StatusOr<std::unique_ptr<Timer>> Create(const SearchScratch& scratch,
                                                       StreamView stream) {
    std::unique_ptr<Timer> timer(new Timer(scratch, stream));
    if (cudaEventCreate(&timer->begin_) != cudaSuccess ||
        cudaEventCreate(&timer->end_) != cudaSuccess) {
      return absl::InternalError("cudaEventCreate failed");
    }
    return timer;
  }
  ~Timer() {
    if (begin_ != nullptr) cudaEventDestroy(begin_);
    if (end_ != nullptr) cudaEventDestroy(end_);
  }
  Timer(const Timer&) = delete;
  Timer& operator=(const Timer&) = delete;

  // Milliseconds of the median run; infinity if the algorithm cannot run.
  float Measure(cublasLtContext* handle, MatmulPlan& plan, MatmulPlan::Operands operands,
                const MatmulAlgorithm& algorithm, int runs) {
    constexpr float kNever = std::numeric_limits<float>::infinity();
    operands.c = scratch_.result;
    if (!plan.Run(handle, algorithm, operands, stream_).ok()) return kNever;
    const auto stream = static_cast<cudaStream_t>(stream_.native_handle());
    std::vector<float> times;
    for (int run = 0; run < runs; ++run) {
      cudaMemsetAsync(scratch_.flush, run, static_cast<size_t>(flush_bytes_), stream);
      cudaEventRecord(begin_, stream);
      if (!plan.Run(handle, algorithm, operands, stream_).ok()) return kNever;
      cudaEventRecord(end_, stream);
      float milliseconds = kNever;
      if (cudaEventSynchronize(end_) != cudaSuccess ||
          cudaEventElapsedTime(&milliseconds, begin_, end_) != cudaSuccess) {
        return kNever;
      }
      times.push_back(milliseconds);
    }
    const auto middle = times.begin() + static_cast<std::ptrdiff_t>(times.size() / 2);
    std::nth_element(times.begin(), middle, times.end());
    return *middle;
  }

 private:
  Timer(const SearchScratch& scratch, StreamView stream)
      : scratch_(scratch), stream_(stream), flush_bytes_(FlushBytes(stream.device())) {}
  const SearchScratch scratch_;
  const StreamView stream_;
  const int64_t flush_bytes_;
  cudaEvent_t begin_ = nullptr, end_ = nullptr;
};

}  // namespace

int64_t FlushBytes(Device device) {
  int cache_bytes = 0;
  cudaDeviceGetAttribute(&cache_bytes, cudaDevAttrL2CacheSize, device.index);
  const int64_t bytes = std::max<int64_t>(cache_bytes, 1) * 2;
  return (bytes + kMemoryAlignment - 1) / kMemoryAlignment * kMemoryAlignment;
}

absl::StatusOr<DeviceBuffer> TakeForSearch(Device device, int64_t bytes) {
  cuda::MakeCurrent(device);
  size_t free_bytes = 0, all_bytes = 0;
  cudaMemGetInfo(&free_bytes, &all_bytes);
  absl::StatusOr<DeviceBuffer> memory = DeviceBuffer::Allocate(device, bytes);
  if (memory.ok()) return memory;
  return absl::ResourceExhaustedError("its search wants " + std::to_string(bytes) + " bytes on " +
                                      kernels::Name(device) + ", where " +
                                      std::to_string(free_bytes) + " are free");
}

absl::StatusOr<MatmulAlgorithm> FirstProposal(cublasLtContext* handle, MatmulPlan& plan,
                                              const std::string& why) {
  ASSIGN_OR_RETURN(const auto algorithms, plan.Propose(handle, 1));
  Log(Severity::kWarning, "matmul " + plan.key.ToString() +
                              " takes cuBLASLt's first proposal, which is not kept: " + why);
  return algorithms[0];
}

absl::StatusOr<MatmulAlgorithm> SearchAlgorithm(cublasLtContext* handle, MatmulPlan& plan,
                                                const MatmulPlan::Operands& operands,
                                                const SearchScratch& scratch, StreamView stream) {
  ASSIGN_OR_RETURN(const auto algorithms, plan.Propose(handle, kSearchedAlgorithms));
  if (algorithms.size() == 1) return algorithms[0];
  ASSIGN_OR_RETURN(const std::unique_ptr<Timer> timer, Timer::Create(scratch, stream));
  std::vector<std::pair<float, size_t>> ranking;  // milliseconds, index of the algorithm
  float spent = 0;
  for (size_t i = 0; i < algorithms.size() && (i < kLeastProposals || spent < kFirstRound); ++i) {
    const float once = timer->Measure(handle, plan, operands, algorithms[i], 1);
    ranking.emplace_back(once, i);
    if (std::isfinite(once)) spent += 2 * once;  // a run before it, to warm up
  }
  std::sort(ranking.begin(), ranking.end());
  const bool is_long = ranking.front().first > kLong;
  ranking.resize(std::min(ranking.size(), is_long ? kLongFinalists : kFinalists));
  for (auto& [milliseconds, i] : ranking) {
    milliseconds = timer->Measure(handle, plan, operands, algorithms[i],
                                  is_long ? kLongFinalRuns : kFinalRuns);
  }
  const auto [milliseconds, best] = *std::min_element(ranking.begin(), ranking.end());
  if (milliseconds == std::numeric_limits<float>::infinity()) {
    return absl::InternalError("none of cuBLASLt's " + std::to_string(algorithms.size()) +
                               " algorithms for matmul " + plan.key.ToString() + " runs");
  }
  return algorithms[best];
}

}  // namespace muster::kernels::cuda
