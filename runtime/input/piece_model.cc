#include "runtime/input/piece_model.h"

#include <sentencepiece_processor.h>
#include <sentencepiece_trainer.h>

#include <exception>
#include <unordered_map>

namespace muster::runtime {
namespace {

class Model : public PieceModel {
 public:
  sentencepiece::SentencePieceProcessor& processor() { return processor_; }
  int vocab_size() const override { return processor_.GetPieceSize(); }
  int end_of_text() const override { return processor_.eos_id(); }

  bool Encode(std::string_view text, std::vector<int>* ids, std::string* error) const override {
    const auto status = processor_.Encode(text, ids);
    *error = status.ok() ? "" : status.ToString();
    return status.ok();
  }
  bool Decode(const std::vector<int>& ids, std::string* text, std::string* error) const override {
    const auto status = processor_.Decode(ids, text);
    *error = status.ok() ? "" : status.ToString();
    return status.ok();
  }

 private:
  sentencepiece::SentencePieceProcessor processor_;
};

class Lines : public sentencepiece::SentenceIterator {
 public:
  explicit Lines(const std::function<bool(std::string*)>& next) : next_(next) { Next(); }
  bool done() const override { return done_; }
  void Next() override { done_ = !next_(&line_); }
  const std::string& value() const override { return line_; }
  sentencepiece::util::Status status() const override { return {}; }

 private:
  const std::function<bool(std::string*)>& next_;
  std::string line_;
  bool done_ = false;
};

}  // namespace

std::unique_ptr<PieceModel> PieceModel::Parse(const std::string& bytes, std::string* error) {
  auto model = std::make_unique<Model>();
  try {
    const auto status = model->processor().LoadFromSerializedProto(bytes);
    if (status.ok()) return model;
    *error = status.ToString();
  } catch (const std::exception& exception) {
    *error = exception.what();
  }
  return nullptr;
}

std::string TrainPieceModel(const PieceTraining& training, std::string* error) {
  const std::unordered_map<std::string, std::string> options = {
      {"model_type", "bpe"},
      {"vocab_size", std::to_string(training.vocab_size)},
      {"byte_fallback", "true"},
      {"character_coverage", "0.9995"},
      // Text comes back as it was: no rewriting of characters or spaces.
      {"normalization_rule_name", "identity"},
      {"add_dummy_prefix", "false"},
      {"remove_extra_whitespaces", "false"},
      {"allow_whitespace_only_pieces", "true"},
      {"split_digits", "true"},
      {"num_threads", "1"},
      {"input_sentence_size", "0"},
      {"shuffle_input_sentence", "false"},
      {"max_sentence_length", "65536"},
      {"minloglevel", "3"},
  };
  std::string model;
  try {
    Lines lines(training.next_line);
    const auto status = sentencepiece::SentencePieceTrainer::Train(options, &lines, &model);
    *error = status.ok() ? "" : status.ToString();
    if (!status.ok()) model.clear();
  } catch (const std::exception& exception) {
    *error = exception.what();
    model.clear();
  }
  return model;
}

}  // namespace muster::runtime
