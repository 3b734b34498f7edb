#pragma once
// Text to token ids and back, with SentencePiece models. Ids are bytes or pieces of text, so that
// any UTF-8 text can be encoded and comes back as it was, but for U+2581, which SentencePiece uses
// for spaces.
#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"

namespace muster::runtime {

class Tokenizer {
 public:
  // Errors: not readable; no SentencePiece model.
  static absl::StatusOr<std::unique_ptr<Tokenizer>> Load(const std::string& path);
  // From the bytes of a model file; `name` is for messages.
  static absl::StatusOr<std::unique_ptr<Tokenizer>> Parse(const std::string& bytes,
                                                          const std::string& name);
  virtual ~Tokenizer() = default;
  virtual absl::StatusOr<std::vector<int>> Encode(std::string_view text) const = 0;
  // Errors: an id that is not in the vocabulary.
  virtual absl::StatusOr<std::string> Decode(const std::vector<int>& ids) const = 0;
  virtual int vocab_size() const = 0;
  virtual int end_of_text() const = 0;  // id that ends a document, or -1
};

struct TokenizerTraining {
  int vocab_size = 0;  // with 3 control ids, 256 bytes and the text's characters
  // Gives the next line to learn from, without its line end; false at the end. Lines of more than
  // 65,536 bytes are left out.
  std::function<bool(std::string* line)> next_line;
};

// Learns a byte-pair encoding with byte fallback in one thread; the same lines give the same model.
// Returns the bytes of a model file. Errors: no text; a vocabulary too small for the bytes and
// characters, or larger than the text supports (with the largest that works).
absl::StatusOr<std::string> TrainTokenizer(const TokenizerTraining& training);

}  // namespace muster::runtime
