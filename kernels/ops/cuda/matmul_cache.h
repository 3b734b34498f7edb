#pragma once
// What a cuBLASLt algorithm is chosen for, and a file that keeps the choices.
#include <compare>
#include <cstdint>
#include <map>
#include <optional>
#include <string>

#include "kernels/ops/matmul.h"

namespace muster::kernels::cuda {

// All that the choice depends on. Row strides in elements; alignments in bytes, at most 16.
struct MatmulKey {
  int64_t m = 0, n = 0, k = 0;
  int64_t a_stride = 0, b_stride = 0, c_stride = 0;
  int a_alignment = 16, b_alignment = 16, c_alignment = 16;
  DType storage = DType::kFloat32, result = DType::kFloat32;
  bool a_transposed = false, b_transposed = false, bias = false, accumulate = false;
  auto operator<=>(const MatmulKey&) const = default;

  static MatmulKey Of(const MatmulArgs& args);
  std::string ToString() const;  // one word
};

// cuBLASLt's description of an algorithm: valid for one version of the library.
struct MatmulAlgorithm {
  uint64_t data[8] = {};
};

// The file of a user's choices: `cache` if it is set, else under the cache directory `xdg`, else
// under `home`; empty if all are null, or `cache` is empty: no file.
std::string MatmulCachePath(const char* cache, const char* xdg, const char* home);

// Choices of algorithms in a text file, a line each: device, library version, key, algorithm. Lines
// are only added, each by one write, so ranks may share the file; of two lines for one key the
// first counts, for the rank that wrote the second too. So all ranks, and a job that is started
// again, use the same algorithms.
class MatmulCacheFile {
 public:
  MatmulCacheFile(std::string path, const std::string& device_name);
  std::optional<MatmulAlgorithm> Find(const MatmulKey& key) const;
  // Returns what the file has for the key from now on: the algorithm, or what another rank added
  // meanwhile. Makes the file's directory. Errors are logged; then the choice is this process's.
  MatmulAlgorithm Add(const MatmulKey& key, const MatmulAlgorithm& algorithm);

 private:
  void Read();
  const std::string path_, prefix_;
  std::map<std::string, MatmulAlgorithm> algorithms_;  // what was read
};

}  // namespace muster::kernels::cuda
