#pragma once
// A read-only stream of token ids, memory-mapped. Open recognises three formats by their magic:
// Muster token files (runtime/input/token_file.h), Megatron-LM's .bin/.idx pair (by prefix or
// either name), and llm.c's .bin (runtime/input/foreign_formats.h).
#include <cstdint>
#include <memory>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace muster::runtime {

// Whether Open reads the whole payload to compare its hash; of Muster files, the only ones with a
// hash. It costs one pass at the disk's rate (about 10 GB/s from the page cache).
enum class HashCheck { kVerify, kSkip };

// What is known of a source without reading its tokens.
struct TokenFacts {
  std::string format;         // "Muster token file", "Megatron-LM .bin/.idx", "llm.c .bin", ...
  std::string element;        // "uint16"
  int64_t num_tokens = 0;     //
  int vocab_size = 0;         // 0 when the format does not say
  uint64_t payload_hash = 0;  // XXH3-64; 0 when the format has none
  std::string provenance;     // where the tokens came from; "" when the format does not say
};

class TokenSource {
 public:
  // Errors: not found; unknown magic or version; a length that disagrees with the header (wanted
  // and found bytes); a hash that disagrees (Muster files).
  static absl::StatusOr<std::unique_ptr<TokenSource>> Open(
      const std::string& path, HashCheck hash_check = HashCheck::kVerify);
  virtual ~TokenSource() = default;
  virtual const TokenFacts& facts() const = 0;
  int64_t num_tokens() const { return facts().num_tokens; }
  int vocab_size() const { return facts().vocab_size; }  // 0 when the format does not say
  virtual const std::string& path() const = 0;
  // Tokens [begin, begin + count) to `out`. Errors: out of range; a token id that is negative or
  // not below `vocab_size` (the model's), with its position.
  virtual absl::Status Read(int64_t begin, int64_t count, int vocab_size, int32_t* out) const = 0;
};

}  // namespace muster::runtime
