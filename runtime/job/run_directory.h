#pragma once
// The directory of one run: config.textproto, tokenizer.model, metrics.jsonl, tensorboard/,
// ledger/, weights/, logs/. Rank 0 makes it; every rank gets the same answer.
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "parallel/comm/rendezvous.h"
#include "runtime/job/config.h"

namespace muster::runtime {

struct RunDirectory {
  std::string path;  // absolute
  int attempt = 0;
};

// `wanted` may be empty: then runs/<job name>-<local time> below the working directory. Errors (on
// every rank): it cannot be created or written; it holds a run already. Nothing is left behind.
absl::StatusOr<RunDirectory> PrepareRunDirectory(const std::string& wanted, const ResolvedJob& job,
                                                 parallel::World& world);

// Every rank compares its job and build with rank 0's. Errors name the ranks that differ.
absl::Status CheckAgreement(const ResolvedJob& job, const std::string& build,
                            parallel::World& world);

}  // namespace muster::runtime
