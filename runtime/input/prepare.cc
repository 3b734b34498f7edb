#include "runtime/input/prepare.h"

#include <fcntl.h>
#include <stdlib.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <filesystem>
#include <memory>

#include "absl/strings/str_cat.h"
#include "kernels/base/error.h"
#include "runtime/input/sha256.h"
#include "runtime/input/text_blocks.h"
#include "runtime/input/token_file.h"
#include "runtime/input/token_statistics.h"
#include "runtime/input/tokenizer.h"
#include "runtime/input/utf8.h"
#include "runtime/job/atomic_file.h"
#include "runtime/job/file_error.h"
#include "runtime/job/mapped_file.h"

namespace muster::runtime {
namespace {

namespace fs = std::filesystem;

constexpr size_t kLongestTrainingLine = 8192;

// A directory that gets its name at Commit, or is removed with all that is in it.
class PendingDirectory {
 public:
  static absl::StatusOr<std::unique_ptr<PendingDirectory>> Create(const std::string& wanted) {
    const fs::path target = fs::path(wanted).lexically_normal();
    std::error_code error;
    if (fs::exists(target, error) &&
        !(fs::is_directory(target, error) && fs::is_empty(target, error))) {
      return absl::AlreadyExistsError(absl::StrCat(
          wanted, ": wanted a new or empty directory, found one in use; choose another name"));
    }
    std::string path = target.string();
    if (path.ends_with('/')) path.pop_back();
    if (path.empty()) return absl::InvalidArgumentError("wanted an output directory, found none");
    std::string partial = path + ".partial-XXXXXX";
    if (mkdtemp(partial.data()) == nullptr) return FileError("create " + partial, errno);
    return std::unique_ptr<PendingDirectory>(new PendingDirectory(path, partial));
  }
  ~PendingDirectory() {
    std::error_code ignored;
    if (!partial_.empty()) fs::remove_all(partial_, ignored);
  }
  PendingDirectory(const PendingDirectory&) = delete;
  PendingDirectory& operator=(const PendingDirectory&) = delete;

  std::string File(const std::string& name) const { return partial_ + "/" + name; }

  absl::Status Commit() {
    if (std::rename(partial_.c_str(), path_.c_str()) != 0) {
      return FileError(absl::StrCat("rename ", partial_, " to ", path_), errno);
    }
    partial_.clear();
    const std::string parent = fs::path(path_).parent_path().string();
    const int fd = open(parent.empty() ? "." : parent.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd < 0) return FileError("open " + parent, errno);
    const int result = fsync(fd);
    const int sync_error = errno;
    close(fd);
    return result == 0 ? absl::OkStatus() : FileError("sync " + parent, sync_error);
  }

 private:
  PendingDirectory(std::string path, std::string partial)
      : path_(std::move(path)), partial_(std::move(partial)) {}
  std::string path_, partial_;
};

absl::Status CheckOptions(const PrepareOptions& options) {
  if (options.texts.empty()) return absl::InvalidArgumentError("wanted text files, found none");
  if (options.validation_every < 2) {
    return absl::InvalidArgumentError(
        absl::StrCat("validation_every is ", options.validation_every, ": it must be at least 2"));
  }
  if (options.tokenizer_text_bytes < 1) {
    return absl::InvalidArgumentError(absl::StrCat(
        "tokenizer_text_bytes is ", options.tokenizer_text_bytes, ": it must be at least 1"));
  }
  return absl::OkStatus();
}

class Preparation {
 public:
  explicit Preparation(const PrepareOptions& options) : options_(options) {}

  absl::StatusOr<DatasetSummary> Run() {
    RETURN_IF_ERROR(CheckOptions(options_));
    RETURN_IF_ERROR(ReadTexts());
    ASSIGN_OR_RETURN(const std::unique_ptr<PendingDirectory> directory,
                     PendingDirectory::Create(options_.output_directory));
    RETURN_IF_ERROR(MakeTokenizer(*directory));
    RETURN_IF_ERROR(Encode(*directory));
    RETURN_IF_ERROR(WriteFileAtomically(directory->File("dataset.json"), ToJson(summary_)));
    RETURN_IF_ERROR(directory->Commit());
    return summary_;
  }

 private:
  struct Block {
    std::string_view text;
    bool validation;
    bool ends_run;  // the next block is of another file or split
  };

  void Report(const char* phase, int64_t done) const {
    if (options_.progress) options_.progress({phase, done, text_bytes_});
  }

  absl::Status ReadTexts() {
    for (const std::string& path : options_.texts) {
      ASSIGN_OR_RETURN(MappedFile file, MappedFile::Open(path));
      if (file.size() == 0) {
        return absl::InvalidArgumentError(absl::StrCat(path, ": wanted text, found an empty file"));
      }
      text_bytes_ += static_cast<int64_t>(file.size());
      files_.push_back(std::move(file));
    }
    int64_t done = 0;
    for (const MappedFile& file : files_) {
      Report("reading", done);
      const InvalidUtf8 invalid = FindInvalidUtf8(file.bytes());
      if (invalid.count > 0 && !options_.replace_invalid_utf8) {
        return absl::InvalidArgumentError(
            absl::StrCat(file.path(), ": wanted UTF-8, found ", invalid.count,
                         " bytes that are none, the first at position ", invalid.first,
                         "; convert the file (iconv), or let such bytes be replaced by U+FFFD"));
      }
      const int64_t bytes = static_cast<int64_t>(file.size());
      summary_.sources.push_back({file.path(), bytes, Sha256(file.bytes()), invalid.count});
      done += bytes;
    }
    Report("reading", done);
    return CutBlocks();
  }

  absl::Status CutBlocks() {
    const TextSplit split = SplitFor(text_bytes_, options_.validation_every);
    summary_.validation_every = split.validation_every;
    for (const MappedFile& file : files_) {
      std::string_view rest = file.bytes();
      while (!rest.empty()) {
        const bool validation = split.IsValidation(static_cast<int64_t>(blocks_.size()));
        if (!blocks_.empty() && blocks_.back().validation != validation) {
          blocks_.back().ends_run = true;
        }
        blocks_.push_back({TakeBlock(split, &rest), validation, rest.empty()});
        SplitSummary& summary = validation ? summary_.validation : summary_.train;
        summary.text_bytes += static_cast<int64_t>(blocks_.back().text.size());
      }
    }
    if (summary_.validation.text_bytes > 0) return absl::OkStatus();
    return absl::InvalidArgumentError(
        absl::StrCat("too little text to set some aside for validation: wanted at least ",
                     options_.validation_every, " blocks of lines, found ", blocks_.size(),
                     "; use more text or a smaller validation_every"));
  }

  absl::Status MakeTokenizer(const PendingDirectory& directory) {
    std::string model;
    if (options_.tokenizer_file.empty()) {
      ASSIGN_OR_RETURN(model, TrainOnBlocks());
    } else {
      ASSIGN_OR_RETURN(const MappedFile file, MappedFile::Open(options_.tokenizer_file));
      model = file.bytes();
    }
    ASSIGN_OR_RETURN(tokenizer_, Tokenizer::Parse(model, options_.tokenizer_file.empty()
                                                             ? "the trained tokenizer"
                                                             : options_.tokenizer_file));
    summary_.vocab_size = tokenizer_->vocab_size();
    summary_.tokenizer_sha256 = Sha256(model);
    return WriteFileAtomically(directory.File("tokenizer.model"), model);
  }

  // Learns from every n-th training block, with n such that the wanted number of bytes is kept.
  absl::StatusOr<std::string> TrainOnBlocks() {
    const int64_t stride =
        std::max<int64_t>(1, (summary_.train.text_bytes + options_.tokenizer_text_bytes - 1) /
                                 options_.tokenizer_text_bytes);
    size_t next = 0;
    int64_t train_blocks = 0, passed = 0;
    std::string text;       // of the block at hand, as UTF-8
    std::string_view rest;  // of it
    TokenizerTraining training;
    training.vocab_size = options_.vocab_size;
    training.next_line = [&](std::string* line) {
      while (rest.empty()) {
        if (next == blocks_.size()) return false;
        const Block& block = blocks_[next++];
        passed += static_cast<int64_t>(block.text.size());
        if (block.validation || train_blocks++ % stride != 0) continue;
        text = ReplaceInvalidUtf8(block.text);
        rest = text;
        summary_.tokenizer_text_bytes += static_cast<int64_t>(block.text.size());
        Report("training the tokenizer", passed);
      }
      *line = TakeLine(kLongestTrainingLine, &rest);
      return true;
    };
    Report("training the tokenizer", 0);
    return TrainTokenizer(training);
  }

  absl::Status Encode(const PendingDirectory& directory) {
    ASSIGN_OR_RETURN(std::unique_ptr<TokenFileWriter> train,
                     CreateWriter(directory, "train.tokens", &summary_.train));
    ASSIGN_OR_RETURN(std::unique_ptr<TokenFileWriter> validation,
                     CreateWriter(directory, "validation.tokens", &summary_.validation));
    TokenCounts train_counts(summary_.vocab_size), validation_counts(summary_.vocab_size);
    int64_t done = 0;
    for (const Block& block : blocks_) {
      Report("encoding", done);
      ASSIGN_OR_RETURN(std::vector<int> tokens, EncodeBlock(block.text));
      if (block.ends_run && tokenizer_->end_of_text() >= 0) {
        tokens.push_back(tokenizer_->end_of_text());
      }
      const int64_t count = static_cast<int64_t>(tokens.size());
      RETURN_IF_ERROR((block.validation ? validation : train)->Append(tokens.data(), count));
      (block.validation ? validation_counts : train_counts).Add(tokens.data(), count);
      done += static_cast<int64_t>(block.text.size());
    }
    Report("encoding", done);
    RETURN_IF_ERROR(Finish(*train, train_counts, &summary_.train));
    return Finish(*validation, validation_counts, &summary_.validation);
  }

  // In pieces of a few lines: SentencePiece takes 1.5 times as long for 64 KiB at a time.
  absl::StatusOr<std::vector<int>> EncodeBlock(std::string_view block) const {
    const TextSplit pieces{.block_bytes = 2048};
    const std::string text = ReplaceInvalidUtf8(block);
    std::string_view rest = text;
    std::vector<int> tokens;
    while (!rest.empty()) {
      ASSIGN_OR_RETURN(const std::vector<int> piece, tokenizer_->Encode(TakeBlock(pieces, &rest)));
      tokens.insert(tokens.end(), piece.begin(), piece.end());
    }
    return tokens;
  }

  absl::StatusOr<std::unique_ptr<TokenFileWriter>> CreateWriter(const PendingDirectory& directory,
                                                                const std::string& name,
                                                                SplitSummary* split) const {
    split->file = name;
    std::string provenance =
        absl::StrCat("muster data prepare; tokenizer sha256 ", summary_.tokenizer_sha256);
    for (const TextSource& source : summary_.sources) {
      absl::StrAppend(&provenance, "; ", source.path, " sha256 ", source.sha256);
    }
    return TokenFileWriter::Create(directory.File(name), summary_.vocab_size, provenance);
  }

  static absl::Status Finish(TokenFileWriter& writer, const TokenCounts& counts,
                             SplitSummary* split) {
    RETURN_IF_ERROR(writer.Commit());
    split->tokens = writer.num_tokens();
    split->payload_hash = writer.payload_hash();
    split->distinct_tokens = counts.num_distinct();
    split->unigram_entropy_nats = counts.EntropyNats();
    return absl::OkStatus();
  }

  const PrepareOptions& options_;
  DatasetSummary summary_;
  std::vector<MappedFile> files_;
  int64_t text_bytes_ = 0;
  std::vector<Block> blocks_;
  std::unique_ptr<Tokenizer> tokenizer_;
};

}  // namespace

absl::StatusOr<DatasetSummary> PrepareDataset(const PrepareOptions& options) {
  return Preparation(options).Run();
}

}  // namespace muster::runtime
