#pragma once
// How often each token occurs.
#include <cstdint>
#include <vector>

#include "absl/status/status.h"
#include "runtime/input/token_source.h"

namespace muster::runtime {

class TokenCounts {
 public:
  explicit TokenCounts(int vocab_size) : counts_(static_cast<size_t>(vocab_size)) {}
  // CHECKs that tokens are inside the vocabulary.
  void Add(const int32_t* tokens, int64_t count);
  // All tokens of a source. Errors: its own; a token outside the vocabulary.
  absl::Status AddAll(const TokenSource& source);
  int64_t total() const { return total_; }
  int64_t num_distinct() const;
  // -sum p ln p of the frequencies p; 0 without tokens.
  double EntropyNats() const;

 private:
  std::vector<int64_t> counts_;
  int64_t total_ = 0;
};

}  // namespace muster::runtime
