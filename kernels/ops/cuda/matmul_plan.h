#pragma once
// Plans of matrix products through cuBLASLt. A plan is the library's descriptors and the algorithm
// for one MatmulKey; a stream keeps its plans.
//
// cuBLASLt is column-major: it is given our row-major c [M, N] as c^T [N, M] = b^T a^T, so its
// first operand is our b, its second our a, and the bias runs along its rows.
//
// Choice of the algorithm: products of at least kMinSearchedFlops are searched at their first use
// on a stream: the library's first kSearchedAlgorithms proposals are run on the real operands into
// scratch memory and timed, which stops the host for some tenths of a second. So each shape wants
// to be run once before what is timed; a step after that only looks plans up. Searches may choose
// differently, and results then differ in the last bits: a cache file keeps the first choice, for
// other ranks, runs and restarts.
#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "kernels/device/stream.h"
#include "kernels/ops/cuda/matmul_cache.h"
#include "kernels/ops/matmul.h"

struct cublasLtContext;

namespace muster::kernels::cuda {

constexpr double kMinSearchedFlops = 2e9;
constexpr int kSearchedAlgorithms = 32;

struct MatmulTuning {
  bool search = true;      // false: the library's first proposal
  std::string cache_path;  // empty: choices are kept in memory only
  // MUSTER_MATMUL_SEARCH=0 turns the search off, MUSTER_MATMUL_CACHE names the file ("": none);
  // else it is the user's: muster/matmul_algorithms in XDG_CACHE_HOME, or in .cache of HOME.
  static MatmulTuning FromEnvironment();
};

class MatmulPlan {
 public:
  // `bias` stands for those of later runs: the library proposes nothing for a null bias.
  static absl::StatusOr<std::unique_ptr<MatmulPlan>> Create(const MatmulKey& key, const void* bias);
  ~MatmulPlan();
  MatmulPlan(const MatmulPlan&) = delete;
  MatmulPlan& operator=(const MatmulPlan&) = delete;

  struct Operands {
    const void *a = nullptr, *b = nullptr, *bias = nullptr;
    void* c = nullptr;
  };
  // Enqueues, with the stream's workspace.
  absl::Status Run(cublasLtContext* handle, const MatmulAlgorithm& algorithm,
                   const Operands& operands, StreamView stream);
  // The library's proposals, best guess first. Errors: it has none.
  absl::StatusOr<std::vector<MatmulAlgorithm>> Propose(cublasLtContext* handle, int count);
  // Whether the library accepts the algorithm for this product.
  bool Accepts(cublasLtContext* handle, const MatmulAlgorithm& algorithm);

  const MatmulKey key;
  MatmulAlgorithm algorithm;

 private:
  struct Descriptors;
  explicit MatmulPlan(const MatmulKey& key);
  std::unique_ptr<Descriptors> descriptors_;
};

// The fastest of the library's proposals on these operands; c is not touched. Falls back to the
// first proposal, with a warning, if there is no memory for scratch results or the stream is being
// captured.
absl::StatusOr<MatmulAlgorithm> SearchAlgorithm(cublasLtContext* handle, MatmulPlan& plan,
                                                const MatmulPlan::Operands& operands,
                                                StreamView stream);

// A stream's plans.
class MatmulPlans final : public StreamContext {
 public:
  static absl::StatusOr<std::unique_ptr<MatmulPlans>> Create(Device device,
                                                             const MatmulTuning& tuning);
  ~MatmulPlans() override;
  cublasLtContext* handle() const { return handle_; }
  absl::StatusOr<MatmulPlan*> Get(const MatmulKey& key, const MatmulPlan::Operands& operands,
                                  StreamView stream);

 private:
  MatmulPlans(const MatmulTuning& tuning, Device device);
  absl::StatusOr<MatmulAlgorithm> Choose(MatmulPlan& plan, const MatmulPlan::Operands& operands,
                                         StreamView stream);
  const MatmulTuning tuning_;
  MatmulCacheFile cache_;
  cublasLtContext* handle_ = nullptr;
  std::map<MatmulKey, std::unique_ptr<MatmulPlan>> plans_;
};

}  // namespace muster::kernels::cuda
