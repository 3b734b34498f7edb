#pragma once
// What is known of a prepared data set; kept beside it as dataset.json.
#include <cstdint>
#include <string>
#include <vector>

namespace muster::runtime {

struct TextSource {
  std::string path;  // as it was given
  int64_t bytes = 0;
  std::string sha256;
  int64_t invalid_bytes = 0;  // no UTF-8; each was replaced by U+FFFD
};

struct SplitSummary {
  std::string file;  // in the data set's directory
  int64_t text_bytes = 0, tokens = 0, distinct_tokens = 0;
  uint64_t payload_hash = 0;        // XXH3-64, as in the token file
  double unigram_entropy_nats = 0;  // of the token frequencies: a lazy model's loss
  double tokens_per_byte() const {
    return text_bytes == 0 ? 0 : static_cast<double>(tokens) / static_cast<double>(text_bytes);
  }
};

struct DatasetSummary {
  std::vector<TextSource> sources;
  std::string tokenizer_sha256;
  int vocab_size = 0;
  int64_t tokenizer_text_bytes = 0;  // that it was trained on; 0: it was given
  int validation_every = 0;
  SplitSummary train, validation;
};

// Indented, keys in a fixed order; hashes as hexadecimal text.
std::string ToJson(const DatasetSummary& summary);

}  // namespace muster::runtime
