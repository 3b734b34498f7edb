#pragma once
// What a token file holds, and the way from foreign formats to our own.
#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "runtime/input/token_source.h"

namespace muster::runtime {

// Ids from here on are taken for damage: counts of a vocabulary as large would fill the memory.
constexpr int kLargestVocabulary = 1 << 26;

struct TokenReport {
  std::string path;
  TokenFacts facts;
  int64_t distinct_tokens = 0;
  int highest_id = -1;
  double unigram_entropy_nats = 0;
  std::vector<int32_t> first_tokens;
  std::string first_text;  // of them; "" without a tokenizer
};

// Reads all of the source's tokens (verifying its hash, if it has one) and decodes the first
// `num_shown` with `tokenizer_file`, unless that is "". Errors: of TokenSource::Open and Read; an
// id of kLargestVocabulary or more; a tokenizer that can't be read or has fewer tokens.
absl::StatusOr<TokenReport> InspectTokens(const std::string& path,
                                          const std::string& tokenizer_file, int num_shown);

// A few lines for a terminal.
std::string RenderText(const TokenReport& report);

struct ImportOptions {
  std::string source;  // any format that TokenSource reads
  std::string output;  // a Muster token file; replaced if it is there
  int vocab_size = 0;  // 0: the source's, or else its highest id + 1
  std::function<void(int64_t done, int64_t total)> progress;  // tokens; may be empty
};

// Copies the tokens to a Muster token file. Returns what was written. Errors: those of reading and
// writing; an id outside the vocabulary, with its position. On error no file is left.
absl::StatusOr<TokenFacts> ImportTokens(const ImportOptions& options);

}  // namespace muster::runtime
