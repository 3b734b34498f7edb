#include "kernels/ops/matmul_rate.h"

#include <omp.h>

#include <algorithm>
#include <chrono>
#include <string>
#include <vector>

#include "kernels/ops/cast.h"
#include "kernels/ops/matmul.h"

namespace muster::kernels {
namespace {

constexpr double kMinSeconds = 0.3;
constexpr size_t kMinProducts = 5;

// Sets the calling thread's OpenMP threads, and puts the old number back.
class ScopedThreads {
 public:
  explicit ScopedThreads(int threads) : before_(omp_get_max_threads()) {
    omp_set_num_threads(threads);
  }
  ~ScopedThreads() { omp_set_num_threads(before_); }
  ScopedThreads(const ScopedThreads&) = delete;
  ScopedThreads& operator=(const ScopedThreads&) = delete;

 private:
  const int before_;
};

// A random [n, n] matrix on the device.
absl::StatusOr<Tensor> RandomMatrix(Device device, DType dtype, int64_t n, StreamView stream) {
  ASSIGN_OR_RETURN(const Tensor host, Tensor::Allocate(dtype, {n, n}));
  cpu::FillNormal({.x = host.view(),
                   .global_shape = {n, n},
                   .begin = {0, 0},
                   .key = MakePhiloxKey(0, "matmul_rate"),
                   .std = 1.0f});
  ASSIGN_OR_RETURN(Tensor matrix, Tensor::Allocate(dtype, {n, n}, device));
  CopyAsync(matrix.view(), host.view(), stream);
  RETURN_IF_ERROR(stream.Synchronize());
  return matrix;
}

absl::StatusOr<double> MedianSeconds(const MatmulArgs& args, StreamView stream) {
  using Clock = std::chrono::steady_clock;
  Matmul(args, stream);
  RETURN_IF_ERROR(stream.Synchronize());
  std::vector<double> seconds;
  for (double total = 0; total < kMinSeconds || seconds.size() < kMinProducts;
       total += seconds.back()) {
    const Clock::time_point begin = Clock::now();
    Matmul(args, stream);
    RETURN_IF_ERROR(stream.Synchronize());
    seconds.push_back(std::chrono::duration<double>(Clock::now() - begin).count());
  }
  const auto middle = seconds.begin() + static_cast<std::ptrdiff_t>(seconds.size() / 2);
  std::nth_element(seconds.begin(), middle, seconds.end());
  return *middle;
}

}  // namespace

absl::StatusOr<double> MeasureMatmulRate(Device device, DType dtype, int threads) {
  if (dtype != DType::kFloat32 && dtype != DType::kBFloat16) {
    return absl::InvalidArgumentError(
        std::string("the rate of matrix products is measured in fp32 or bf16, asked was ") +
        Name(dtype));
  }
  if (threads < 1) {
    return absl::InvalidArgumentError(
        "the rate of matrix products needs at least 1 thread, asked "
        "were " +
        std::to_string(threads));
  }
  const bool on_cpu = device.type == DeviceType::kCpu;
  const int64_t n = on_cpu ? 1024 : 8192;
  ASSIGN_OR_RETURN(
      const Stream stream,
      Stream::Create(device, on_cpu ? StreamMode::kInline : StreamMode::kQueue, "matmul_rate"));
  ASSIGN_OR_RETURN(const Tensor a, RandomMatrix(device, dtype, n, stream.view()));
  ASSIGN_OR_RETURN(const Tensor b, RandomMatrix(device, dtype, n, stream.view()));
  ASSIGN_OR_RETURN(const Tensor c, Tensor::Allocate(dtype, {n, n}, device));
  const ScopedThreads scoped_threads(on_cpu ? threads : omp_get_max_threads());
  ASSIGN_OR_RETURN(
      const double seconds,
      MedianSeconds({.a = a.view(), .b = b.view(), .c = c.view(), .b_transposed = true},
                    stream.view()));
  return 2.0 * static_cast<double>(n) * static_cast<double>(n) * static_cast<double>(n) / seconds;
}

}  // namespace muster::kernels
