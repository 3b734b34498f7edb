#pragma once
// From text files to a data set: a directory with train.tokens, validation.tokens, tokenizer.model
// and dataset.json. The same text and options give the same bytes.
#include <functional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "runtime/input/dataset_summary.h"

namespace muster::runtime {

struct PrepareProgress {
  std::string phase;  // "reading", "training the tokenizer", "encoding"
  int64_t done_bytes = 0, total_bytes = 0;
};

struct PrepareOptions {
  std::vector<std::string> texts;            // files, taken in this order
  std::string output_directory;              // new, or empty
  std::string tokenizer_file;                // a SentencePiece model; "": one is trained
  int vocab_size = 8192;                     // of a trained tokenizer
  int64_t tokenizer_text_bytes = 8ll << 20;  // at most so much is learnt from, evenly spread
  int validation_every = 20;                 // every n-th block of lines is for validation
  bool replace_invalid_utf8 = false;         // else bytes that are no UTF-8 are an error
  std::function<void(const PrepareProgress&)> progress;  // may be empty; called in order
};

// A run of neighbouring blocks of one file and split ends with the tokenizer's end-of-text id.
// Everything is written to a directory beside the wanted one, which is renamed at the end: on any
// error nothing remains. Errors: a file that can't be read, is empty or is no UTF-8 (with the
// number of bytes and the first position); too little text to set some aside; a vocabulary that
// does not fit the text; a directory that is not empty or cannot be written.
absl::StatusOr<DatasetSummary> PrepareDataset(const PrepareOptions& options);

}  // namespace muster::runtime
