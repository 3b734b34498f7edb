#pragma once
// Plans of matrix products through cuBLASLt. A plan is the library's descriptors and the algorithm
// for one MatmulKey; a stream keeps its plans.
//
// cuBLASLt is column-major: it is given our row-major c [M, N] as c^T [N, M] = b^T a^T, so its
// first operand is our b, its second our a, and the bias runs along its rows.
//
// Results repeat to the bit: sums over k that are cut into parts (split-K) are put together in a
// step of their own, in fp32. Not allowed are the reduction schemes that add up in the result: they
// round to its dtype at each part.
//
// Choice of the algorithm: what a job chose at its start (kernels/ops/matmul_chooser.h). A product
// that is not among that, of at least kMinSearchedFlops, is searched at its first use on a stream,
// which stops the host for some tenths of a second: the library's first kSearchedAlgorithms
// proposals are run on the real operands into scratch memory and timed.
#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "kernels/device/memory.h"
#include "kernels/device/stream.h"
#include "kernels/ops/matmul_chooser.h"
#include "kernels/ops/matmul_key.h"

struct cublasLtContext;

namespace muster::kernels::cuda {

constexpr int kSearchedAlgorithms = 32;

// Whether products are searched: not with MUSTER_MATMUL_SEARCH=0 in the environment, which takes
// the library's first proposals.
bool SearchesMatmuls();

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
  // Enqueues, with the stream's workspace. Errors: ResourceExhausted where the library lacks
  // memory.
  absl::Status Run(cublasLtContext* handle, const MatmulAlgorithm& algorithm,
                   const Operands& operands, StreamView stream);
  // The library's proposals, best guess first. Errors: it has none.
  absl::StatusOr<std::vector<MatmulAlgorithm>> Propose(cublasLtContext* handle, int count);
  // Whether the library accepts the algorithm for this product, and it may be used here.
  bool Accepts(cublasLtContext* handle, const MatmulAlgorithm& algorithm);

  const MatmulKey key;
  MatmulAlgorithm algorithm;

 private:
  struct Descriptors;
  explicit MatmulPlan(const MatmulKey& key);
  std::unique_ptr<Descriptors> descriptors_;
};

// What a search overwrites: `result` as the product would, `flush` (twice the second-level cache)
// before each run.
struct SearchScratch {
  void *result = nullptr, *flush = nullptr;
};
int64_t FlushBytes(Device device);

// The fastest of the library's proposals on these operands, whose c is not touched.
absl::StatusOr<MatmulAlgorithm> SearchAlgorithm(cublasLtContext* handle, MatmulPlan& plan,
                                                const MatmulPlan::Operands& operands,
                                                const SearchScratch& scratch, StreamView stream);

// Memory for a search. Errors: ResourceExhausted, with what was wanted and what is free.
absl::StatusOr<DeviceBuffer> TakeForSearch(Device device, int64_t bytes);
// The library's first proposal instead of a search, with a warning that says why.
absl::StatusOr<MatmulAlgorithm> FirstProposal(cublasLtContext* handle, MatmulPlan& plan,
                                              const std::string& why);

// A stream's plans.
class MatmulPlans final : public StreamContext {
 public:
  // Those of the stream, made at the first call.
  static absl::StatusOr<MatmulPlans*> Of(StreamView stream);
  static absl::StatusOr<std::unique_ptr<MatmulPlans>> Create(bool search);
  ~MatmulPlans() override;
  cublasLtContext* handle() const { return handle_; }
  absl::StatusOr<MatmulPlan*> Get(const MatmulKey& key, const MatmulPlan::Operands& operands,
                                  StreamView stream);
  // Plans that are made later take these.
  void Use(const std::map<MatmulKey, MatmulAlgorithm>& chosen);

 private:
  explicit MatmulPlans(bool search) : search_(search) {}
  absl::StatusOr<MatmulAlgorithm> Choose(MatmulPlan& plan, const MatmulPlan::Operands& operands,
                                         StreamView stream);
  absl::StatusOr<MatmulAlgorithm> SearchNow(MatmulPlan& plan, const MatmulPlan::Operands& operands,
                                            StreamView stream);
  const bool search_;
  std::map<MatmulKey, MatmulAlgorithm> chosen_;
  cublasLtContext* handle_ = nullptr;
  std::map<MatmulKey, std::unique_ptr<MatmulPlan>> plans_;
};

}  // namespace muster::kernels::cuda
