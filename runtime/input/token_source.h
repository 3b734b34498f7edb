#pragma once
// A read-only stream of token ids, memory-mapped. Open recognises three formats by their magic:
// Muster token files (runtime/input/token_file.h), Megatron-LM's .bin/.idx pair (by prefix or
// either name), and llm.c's .bin.
#include <cstdint>
#include <memory>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace muster::runtime {

class TokenSource {
 public:
  // Errors: not found; unknown magic or version; a length that disagrees with the header (wanted
  // and found bytes); a hash that disagrees (Muster files).
  static absl::StatusOr<std::unique_ptr<TokenSource>> Open(const std::string& path);
  virtual ~TokenSource() = default;
  virtual int64_t num_tokens() const = 0;
  virtual int vocab_size() const = 0;  // 0 when the format does not say
  virtual const std::string& path() const = 0;
  // Tokens [begin, begin + count) to `out`. Errors: out of range; a token id that is negative or
  // not below `vocab_size` (the model's), with its position.
  virtual absl::Status Read(int64_t begin, int64_t count, int vocab_size, int32_t* out) const = 0;
};

}  // namespace muster::runtime
