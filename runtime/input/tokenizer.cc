#include "runtime/input/tokenizer.h"

#include "absl/strings/str_cat.h"
#include "kernels/base/error.h"
#include "runtime/input/piece_model.h"
#include "runtime/job/mapped_file.h"

namespace muster::runtime {
namespace {

class PieceTokenizer : public Tokenizer {
 public:
  PieceTokenizer(std::unique_ptr<PieceModel> model, std::string name)
      : model_(std::move(model)), name_(std::move(name)) {}

  absl::StatusOr<std::vector<int>> Encode(std::string_view text) const override {
    std::vector<int> ids;
    std::string error;
    if (model_->Encode(text, &ids, &error)) return ids;
    return absl::InternalError(absl::StrCat(name_, ": encoding failed: ", error));
  }

  absl::StatusOr<std::string> Decode(const std::vector<int>& ids) const override {
    for (size_t i = 0; i < ids.size(); ++i) {
      if (ids[i] >= 0 && ids[i] < vocab_size()) continue;
      return absl::InvalidArgumentError(absl::StrCat(name_, ": wanted ids from 0 to ",
                                                     vocab_size() - 1, ", found ", ids[i],
                                                     " at position ", i));
    }
    std::string text, error;
    if (model_->Decode(ids, &text, &error)) return text;
    return absl::InternalError(absl::StrCat(name_, ": decoding failed: ", error));
  }

  int vocab_size() const override { return model_->vocab_size(); }
  int end_of_text() const override { return model_->end_of_text(); }

 private:
  std::unique_ptr<PieceModel> model_;
  std::string name_;
};

// The number after `words` in SentencePiece's message, or "".
std::string NumberAfter(const std::string& message, const std::string& words) {
  const size_t at = message.find(words);
  if (at == std::string::npos) return "";
  const size_t begin = message.find_first_of("0123456789", at + words.size());
  if (begin == std::string::npos) return "";
  return message.substr(begin, message.find_first_not_of("0123456789", begin) - begin);
}

}  // namespace

absl::StatusOr<std::unique_ptr<Tokenizer>> Tokenizer::Load(const std::string& path) {
  ASSIGN_OR_RETURN(const MappedFile file, MappedFile::Open(path));
  return Parse(std::string(file.bytes()), path);
}

absl::StatusOr<std::unique_ptr<Tokenizer>> Tokenizer::Parse(const std::string& bytes,
                                                            const std::string& name) {
  std::string error;
  std::unique_ptr<PieceModel> model = PieceModel::Parse(bytes, &error);
  if (model == nullptr || model->vocab_size() < 1) {
    return absl::InvalidArgumentError(
        absl::StrCat(name, ": wanted a SentencePiece model, found another file (", error, ")"));
  }
  return std::make_unique<PieceTokenizer>(std::move(model), name);
}

absl::StatusOr<std::string> TrainTokenizer(const TokenizerTraining& training) {
  int64_t num_lines = 0;
  PieceTraining pieces;
  pieces.vocab_size = training.vocab_size;
  pieces.next_line = [&](std::string* line) {
    const bool more = training.next_line(line);
    num_lines += more && !line->empty();
    return more;
  };
  std::string error;
  std::string model = TrainPieceModel(pieces, &error);
  if (!model.empty()) return model;
  if (num_lines == 0) return absl::InvalidArgumentError("a tokenizer needs text, found none");
  if (const std::string most = NumberAfter(error, "to a value <="); !most.empty()) {
    return absl::InvalidArgumentError(
        absl::StrCat("a vocabulary of ", training.vocab_size,
                     " tokens is too large for this text; the largest it supports is ", most));
  }
  if (const std::string least = NumberAfter(error, "smaller than required_chars.");
      !least.empty()) {
    return absl::InvalidArgumentError(absl::StrCat("a vocabulary of ", training.vocab_size,
                                                   " tokens is too small for this text: ", error));
  }
  return absl::InvalidArgumentError(absl::StrCat("the tokenizer cannot be trained with ",
                                                 training.vocab_size, " tokens: ", error));
}

}  // namespace muster::runtime
