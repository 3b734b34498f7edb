#pragma once
// Chooses the library's algorithms of matrix products before the first of them runs: on CUDA by
// timing cuBLASLt's proposals, on operands of its own. A search takes some tenths of a second a
// product and wants the device to itself. Its outcome may differ from one search to the next, and
// two algorithms' results differ in the last bits: which rank searches for whom, and what is kept,
// is decided above (runtime/train/agreed_matmuls.h). Products that nobody chose for are searched
// where they first run.
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "kernels/device/stream.h"
#include "kernels/ops/matmul_key.h"

namespace muster::kernels {

struct MatmulChoice {
  MatmulAlgorithm algorithm;
  bool searched = true;  // false: the library's first proposal, for want of memory
};

class MatmulChooser {
 public:
  virtual ~MatmulChooser() = default;
  // One word. Choices hold wherever it is the same: device, library, and all else that is not in
  // the key.
  virtual std::string scope() const = 0;
  // Whether the library takes the algorithm for this product, and results repeat to the bit.
  virtual bool Accepts(const MatmulKey& key, const MatmulAlgorithm& algorithm) = 0;
  // Waits for the device. Memory for it, once taken, is kept until the chooser ends: ask for the
  // biggest product first. Errors: no algorithm runs.
  virtual absl::StatusOr<MatmulChoice> Search(const MatmulKey& key) = 0;
  // From now on the stream's products use these.
  virtual void Use(const std::map<MatmulKey, MatmulAlgorithm>& chosen) = 0;
};

// For the products of a stream, which must outlive it; used by the thread that enqueues. Null where
// there is nothing to choose: on the CPU, and with MUSTER_MATMUL_SEARCH=0 in the environment.
absl::StatusOr<std::unique_ptr<MatmulChooser>> MakeMatmulChooser(StreamView stream);

namespace cuda {
absl::StatusOr<std::unique_ptr<MatmulChooser>> MakeMatmulChooser(StreamView stream);
}

}  // namespace muster::kernels
