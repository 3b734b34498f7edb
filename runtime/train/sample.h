#pragma once
// Text from a trained run: loads its weights on one rank and continues a prompt. The whole context
// is computed anew for each token (no key/value cache): meant for a look at what was learned.
#include <cstdint>
#include <functional>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace muster::runtime {

struct SampleOptions {
  std::string prompt;
  int64_t max_tokens = 100;
  double temperature = 0.8;  // 0: always the likeliest token
  int top_k = 40;            // 0: all
  uint64_t seed = 1;
};

// The continuation of the prompt. Errors: no finished run there; no tokenizer kept with it.
absl::StatusOr<std::string> SampleText(const std::string& run_directory,
                                       const SampleOptions& options);

// Index of the chosen logit: a pure function of logits, options and `draw`, a number in [0, 1).
int64_t ChooseToken(const float* logits, int64_t vocab_size, const SampleOptions& options,
                    double draw);

}  // namespace muster::runtime
