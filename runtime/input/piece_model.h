#pragma once
// The only door to SentencePiece. Its headers declare names in namespace absl that clash with
// Abseil's, so this interface speaks of std types only, and errors are text.
#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

namespace muster::runtime {

class PieceModel {
 public:
  // From the bytes of a model file; nullptr and `error` if they are none.
  static std::unique_ptr<PieceModel> Parse(const std::string& bytes, std::string* error);
  virtual ~PieceModel() = default;
  virtual int vocab_size() const = 0;
  virtual int end_of_text() const = 0;  // id of </s>, or -1
  virtual bool Encode(std::string_view text, std::vector<int>* ids, std::string* error) const = 0;
  virtual bool Decode(const std::vector<int>& ids, std::string* text, std::string* error) const = 0;
};

struct PieceTraining {
  int vocab_size = 0;
  // Gives the next line to learn from; false at the end.
  std::function<bool(std::string* line)> next_line;
};

// Learns a byte-pair encoding with byte fallback, in one thread: the same lines give the same
// bytes. Returns the bytes of a model file, or "" and `error`.
std::string TrainPieceModel(const PieceTraining& training, std::string* error);

}  // namespace muster::runtime
