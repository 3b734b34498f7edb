#pragma once
// Which algorithm each matrix product of a job takes, equal on all ranks whose devices are alike:
// else ranks that compute the same thing would differ in the last bits, and a restart from the run
// that was never stopped. What the run has used before counts first, then what the user's file
// has; ranks divide the searches of the rest among them and tell each other what they found.
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "kernels/ops/matmul_chooser.h"
#include "parallel/comm/rendezvous.h"
#include "runtime/train/matmul_file.h"

namespace muster::runtime {

// A product that a rank will run, and its algorithm as files have it: only one that the rank's
// library accepts.
struct MatmulWish {
  std::string key;
  double flops = 0;
  std::optional<kernels::MatmulAlgorithm> of_run, of_user;
};
struct MatmulWishes {
  std::string scope;  // empty: this rank chooses nothing
  std::vector<MatmulWish> wishes;
};
struct MatmulDivision {
  KeptMatmuls known;                               // the lowest rank's word counts
  std::vector<std::vector<std::string>> searches;  // by rank: keys of its own wishes
};
// Pure; `all` by rank. The searches of a scope are divided so that its ranks end about together.
MatmulDivision DivideMatmuls(const std::vector<MatmulWishes>& all);

struct MatmulFiles {
  std::string of_run, of_user;  // empty: none
};

// Collective. `wanted`: of this rank, as PlanMatmuls says; small products are left out. `chooser`
// may be null: nothing is chosen here. Nothing else may use the devices meanwhile. The world's rank
// 0 writes the run's file, the first rank of each host the user's; a file that cannot be read or
// written costs a warning. Errors, equal on all ranks: a rank finds no algorithm.
absl::Status AgreeOnMatmuls(const std::set<kernels::MatmulKey>& wanted,
                            kernels::MatmulChooser* chooser, const MatmulFiles& files,
                            parallel::World& world);

}  // namespace muster::runtime
