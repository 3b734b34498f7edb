#include "kernels/ops/matmul_chooser.h"

#include <cublasLt.h>
#include <cuda_runtime.h>

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_replace.h"
#include "kernels/base/error.h"
#include "kernels/base/rng.h"
#include "kernels/device/cuda_runtime.h"
#include "kernels/ops/cast.h"
#include "kernels/ops/cuda/matmul_plan.h"

namespace muster::kernels::cuda {
namespace {

int64_t Aligned(int64_t bytes) {
  return (bytes + kMemoryAlignment - 1) / kMemoryAlignment * kMemoryAlignment;
}

class Chooser final : public MatmulChooser {
 public:
  Chooser(StreamView stream, MatmulPlans& plans) : stream_(stream), plans_(plans) {
    int processors = 0;
    cudaDeviceGetAttribute(&processors, cudaDevAttrMultiProcessorCount, stream.device().index);
    scope_ = absl::StrCat(absl::StrReplaceAll(kernels::ProductName(stream.device()), {{" ", "_"}}),
                          ",processors=", processors, ",cublaslt=", cublasLtGetVersion(),
                          ",workspace=", kStreamWorkspaceBytes);
  }
  std::string scope() const override { return scope_; }
  bool Accepts(const MatmulKey& key, const MatmulAlgorithm& algorithm) override {
    const auto plan = MatmulPlan::Create(key, &scope_);  // some bias
    return plan.ok() && (*plan)->Accepts(plans_.handle(), algorithm);
  }
  absl::StatusOr<MatmulChoice> Search(const MatmulKey& key) override;
  void Use(const std::map<MatmulKey, MatmulAlgorithm>& chosen) override { plans_.Use(chosen); }

 private:
  absl::Status Provide(int64_t random_bytes, int64_t written_bytes);

  const StreamView stream_;
  MatmulPlans& plans_;
  std::string scope_;
  DeviceBuffer random_, written_;  // what runs read, and write
};

absl::StatusOr<MatmulChoice> Chooser::Search(const MatmulKey& key) {
  MakeCurrent(stream_.device());
  int64_t bytes = 0;
  const auto place = [&](int64_t size) {
    bytes += Aligned(size);
    return bytes - Aligned(size);
  };
  const int64_t a = place(key.a_bytes()), b = place(key.b_bytes());
  const int64_t bias = place(key.n * SizeOf(key.result));
  const int64_t flush_bytes = FlushBytes(stream_.device());
  const absl::Status room = Provide(bytes, key.c_bytes() + flush_bytes);
  char* const begin = static_cast<char*>(random_.data());
  char* const flush = static_cast<char*>(written_.data());
  char* const c = flush + flush_bytes;
  ASSIGN_OR_RETURN(const std::unique_ptr<MatmulPlan> plan,
                   MatmulPlan::Create(key, room.ok() ? begin + bias : scope_.data()));
  if (!room.ok()) {
    ASSIGN_OR_RETURN(const MatmulAlgorithm first,
                     FirstProposal(plans_.handle(), *plan, std::string(room.message())));
    return MatmulChoice{.algorithm = first, .searched = false};
  }
  const MatmulPlan::Operands operands = {
      .a = begin + a, .b = begin + b, .bias = key.bias ? begin + bias : nullptr, .c = c};
  ASSIGN_OR_RETURN(
      const MatmulAlgorithm found,
      SearchAlgorithm(plans_.handle(), *plan, operands, {.result = c, .flush = flush}, stream_));
  return MatmulChoice{.algorithm = found};
}

// Operands of normal numbers, of which a bf16 pair is an fp32 one too: what numbers are multiplied
// decides about power, and so about the clock.
absl::Status Chooser::Provide(int64_t random_bytes, int64_t written_bytes) {
  constexpr int64_t kPeriod = int64_t{64} << 20;
  if (written_.bytes() < written_bytes) {
    written_ = DeviceBuffer();
    ASSIGN_OR_RETURN(written_, TakeForSearch(stream_.device(), written_bytes));
  }
  if (random_.bytes() >= random_bytes) return absl::OkStatus();
  random_ = DeviceBuffer();
  ASSIGN_OR_RETURN(random_, TakeForSearch(stream_.device(), random_bytes));
  char* const begin = static_cast<char*>(random_.data());
  const int64_t first = std::min(random_bytes, kPeriod);
  const int64_t numbers = first / SizeOf(DType::kBFloat16);
  kernels::FillNormal({.x = TensorView(begin, DType::kBFloat16, {numbers}, stream_.device()),
                       .global_shape = {numbers},
                       .begin = {0},
                       .key = MakePhiloxKey(0, "matmul search"),
                       .std = 1.0f},
                      stream_);
  for (int64_t done = first; done < random_bytes; done *= 2) {
    kernels::CopyAsync(begin + done, begin, std::min(done, random_bytes - done), stream_);
  }
  return stream_.Synchronize();
}

}  // namespace

absl::StatusOr<std::unique_ptr<MatmulChooser>> MakeMatmulChooser(StreamView stream) {
  if (!SearchesMatmuls()) return nullptr;
  MakeCurrent(stream.device());  // of which the library's handle will be
  ASSIGN_OR_RETURN(MatmulPlans* const plans, MatmulPlans::Of(stream));
  return std::make_unique<Chooser>(stream, *plans);
}

}  // namespace muster::kernels::cuda
