#include "runtime/job/text_reader.h"

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstdio>
#include <cstring>
#include <map>

#include "absl/strings/str_cat.h"
#include "google/protobuf/io/tokenizer.h"
#include "google/protobuf/io/zero_copy_stream_impl_lite.h"
#include "runtime/job/field_value.h"

namespace muster::runtime {
namespace {

using google::protobuf::FieldDescriptor;
using google::protobuf::Message;
using google::protobuf::io::Tokenizer;
using Token = Tokenizer::Token;

constexpr size_t kMaxProblems = 100;       // of one file; more is a file of another kind
constexpr size_t kMaxFileBytes = 1 << 20;  // a config is some hundred lines

class Problems {
 public:
  Problems(std::string file, std::vector<ConfigProblem>* list)
      : file_(std::move(file)), list_(list) {}
  std::string Where(int line) const { return absl::StrCat(file_, ":", line + 1); }
  bool full() const { return count_ >= kMaxProblems; }
  void Add(int line, const std::string& message) {
    if (count_ < kMaxProblems) list_->push_back({Where(line), message});
    if (count_ == kMaxProblems) list_->push_back({file_, "further problems are not listed"});
    ++count_;
  }

 private:
  std::string file_;
  std::vector<ConfigProblem>* list_;
  size_t count_ = 0;
};

class LexicalErrors : public google::protobuf::io::ErrorCollector {
 public:
  explicit LexicalErrors(Problems* problems) : problems_(problems) {}
  void AddError(int line, int /*column*/, const std::string& message) override {
    problems_->Add(line, message);
  }

 private:
  Problems* problems_;
};

std::vector<Token> Tokenize(const std::string& text, Problems* problems) {
  google::protobuf::io::ArrayInputStream stream(text.data(), static_cast<int>(text.size()));
  LexicalErrors errors(problems);
  Tokenizer tokenizer(&stream, &errors);
  tokenizer.set_comment_style(Tokenizer::SH_COMMENT_STYLE);
  tokenizer.set_allow_f_after_float(false);
  tokenizer.set_require_space_after_number(false);
  std::vector<Token> tokens;
  while (tokenizer.Next()) tokens.push_back(tokenizer.current());
  tokens.push_back(tokenizer.current());  // TYPE_END: there is always a token to look at
  return tokens;
}

std::string Shown(const Token& token) {
  constexpr size_t kLongest = 60;
  if (token.type == Tokenizer::TYPE_END) return "the end of the file";
  return token.text.size() <= kLongest ? token.text : token.text.substr(0, kLongest) + "...";
}

class Reader {
 public:
  Reader(const std::vector<Token>& tokens, FieldOrigins* origins, Problems* problems)
      : tokens_(tokens), origins_(origins), problems_(problems) {}

  // Fields up to `close` ("" for the end of the file); `opened` is the line of the opening brace.
  void ReadFields(Message* message, const std::string& prefix, const std::string& close,
                  int opened) {
    std::map<const FieldDescriptor*, int> seen;  // line
    while (true) {
      if (AtEnd()) {
        if (!close.empty()) {
          problems_->Add(opened, absl::StrCat("the block opened here is not closed: wanted ", close,
                                              ", found the end of the file"));
        }
        return;
      }
      if (!close.empty() && Is(close)) {
        Next();
        return;
      }
      ReadField(message, prefix, close, &seen);
    }
  }

 private:
  const Token& current() const { return tokens_[at_]; }
  const Token& following() const { return tokens_[std::min(at_ + 1, tokens_.size() - 1)]; }
  bool AtEnd() const { return current().type == Tokenizer::TYPE_END; }
  bool Is(const std::string& symbol) const {
    return current().type == Tokenizer::TYPE_SYMBOL && current().text == symbol;
  }
  bool IsOpening() const { return Is("{") || Is("<") || Is("["); }
  bool IsClosing() const { return Is("}") || Is(">") || Is("]"); }
  void Next() {
    if (!AtEnd()) ++at_;
  }
  bool TryConsume(const std::string& symbol) {
    if (!Is(symbol)) return false;
    Next();
    return true;
  }
  // Whether a field starts here: a name, then a colon or a block.
  bool LooksLikeField() const {
    return current().type == Tokenizer::TYPE_IDENTIFIER &&
           following().type == Tokenizer::TYPE_SYMBOL &&
           (following().text == ":" || following().text == "{" || following().text == "<");
  }

  // After a mistake: the rest of its line, as far as it is not another field.
  void SkipLine(int line) {
    while (!AtEnd() && current().line == line && !LooksLikeField() && !IsClosing()) {
      if (IsOpening()) {
        SkipBalanced();
      } else {
        Next();
      }
    }
  }
  // From an opening bracket past its closing one.
  void SkipBalanced() {
    const int opened = current().line;
    int depth = 0;
    do {
      if (AtEnd()) {
        problems_->Add(opened, "the bracket opened here is not closed");
        return;
      }
      if (IsOpening()) ++depth;
      if (IsClosing()) --depth;
      Next();
    } while (depth > 0);
  }
  // Whatever value follows a key that can't be used.
  void SkipValue(int line) {
    TryConsume(":");
    if (IsOpening()) {
      SkipBalanced();
    } else {
      SkipLine(line);
    }
    TryConsumeSeparator();
  }
  void TryConsumeSeparator() {
    if (Is(";") || Is(",")) Next();
  }

  void ReadField(Message* message, const std::string& prefix, const std::string& close,
                 std::map<const FieldDescriptor*, int>* seen) {
    const Token name = current();
    if (name.type != Tokenizer::TYPE_IDENTIFIER) {
      problems_->Add(name.line, absl::StrCat("wanted a key", close.empty() ? "" : " or " + close,
                                             ", found ", Shown(name)));
      Next();
      if (!IsClosing()) SkipLine(name.line);
      return;
    }
    Next();
    const std::string path = prefix + name.text;
    const FieldDescriptor* field = message->GetDescriptor()->FindFieldByName(name.text);
    if (field == nullptr) {
      AddUnknownKey(name.line, path, *message->GetDescriptor());
      SkipValue(name.line);
      return;
    }
    const auto [first, is_new] = seen->emplace(field, name.line);
    if (!is_new && !field->is_repeated()) {
      problems_->Add(name.line, absl::StrCat(path, " is given twice: first on line ",
                                             first->second + 1, "; keep one of them"));
      SkipValue(name.line);
      return;
    }
    origins_->Record(path, problems_->Where(name.line));
    if (field->cpp_type() == FieldDescriptor::CPPTYPE_MESSAGE) {
      ReadBlock(message, field, path, name.line);
    } else {
      ReadScalars(message, field, path, name.line);
    }
    TryConsumeSeparator();
  }

  void AddUnknownKey(int line, const std::string& path, const google::protobuf::Descriptor& type) {
    // A search through all keys for a sentence that is not listed would take a file of mistakes
    // long.
    const std::string nearest =
        problems_->full() ? std::string() : NearestPath(path, origins_->type());
    std::string message = absl::StrCat("unknown key ", path);
    if (!nearest.empty()) {
      absl::StrAppend(&message, ": did you mean ", nearest, "?");
      origins_->MarkBroken(nearest);
    } else {
      absl::StrAppend(&message, "; known here:");
      for (int i = 0; i < type.field_count(); ++i) {
        absl::StrAppend(&message, i == 0 ? " " : ", ", type.field(i)->name());
      }
    }
    problems_->Add(line, message);
  }

  void Broken(int line, const std::string& path, const std::string& message) {
    origins_->MarkBroken(path);
    problems_->Add(line, message);
  }

  void ReadBlock(Message* message, const FieldDescriptor* field, const std::string& path,
                 int line) {
    TryConsume(":");
    if (!Is("{") && !Is("<")) {
      Broken(current().line, path,
             absl::StrCat(path, " is a block: wanted { after it, found ", Shown(current())));
      SkipLine(line);
      return;
    }
    const std::string close = Is("{") ? "}" : ">";
    const int opened = current().line;
    Next();
    ReadFields(message->GetReflection()->MutableMessage(message, field), path + ".", close, opened);
  }

  // One value, or a list of values for a repeated field.
  void ReadScalars(Message* message, const FieldDescriptor* field, const std::string& path,
                   int line) {
    if (!TryConsume(":")) {
      Broken(line, path, absl::StrCat("wanted a colon after ", path, ", found ", Shown(current())));
      if (IsOpening()) {
        SkipBalanced();
      } else {
        SkipLine(line);
      }
      return;
    }
    if (!Is("[")) {
      if (!ReadValue(message, field, path, line)) SkipLine(line);
      return;
    }
    if (!field->is_repeated()) {
      Broken(current().line, path, absl::StrCat(path, " takes one value, not a list"));
      SkipBalanced();
      return;
    }
    const int opened = current().line;
    Next();
    if (TryConsume("]")) return;
    while (ReadValue(message, field, path, opened) && TryConsume(",")) {
    }
    if (TryConsume("]")) return;
    Broken(current().line, path,
           absl::StrCat("wanted , or ] in the list of ", path, ", found ", Shown(current())));
    SkipLine(current().line);
    TryConsume("]");
  }

  // Returns false where there is no value at all.
  bool ReadValue(Message* message, const FieldDescriptor* field, const std::string& path,
                 int line) {
    const Token first = current();
    const bool is_value =
        first.type == Tokenizer::TYPE_STRING || first.type == Tokenizer::TYPE_INTEGER ||
        first.type == Tokenizer::TYPE_FLOAT ||
        (first.type == Tokenizer::TYPE_IDENTIFIER && !LooksLikeField()) || Is("-");
    if (!is_value) {
      Broken(line, path, absl::StrCat("wanted a value for ", path, ", found ", Shown(first)));
      return false;
    }
    const ValueText value = TakeValue();
    const std::string rule = SetScalar(message, field, value);
    if (!rule.empty()) {
      const std::string shown = value.quoted ? absl::StrCat("\"", value.text, "\"") : value.text;
      Broken(first.line, path, absl::StrCat(path, " is ", shown, ": it ", rule));
      SkipLine(first.line);
    }
    return true;
  }

  // Neighbouring strings join. Other tokens join while no space parts them, so that "32k" and
  // "fp-32" are shown as they were written; a minus sign may stand apart from its number.
  ValueText TakeValue() {
    ValueText value;
    if (current().type == Tokenizer::TYPE_STRING) {
      value.quoted = true;
      while (current().type == Tokenizer::TYPE_STRING) {
        Tokenizer::ParseStringAppend(current().text, &value.text);
        Next();
      }
      return value;
    }
    bool sign = false;
    do {
      sign = Is("-") && value.text.empty();
      value.text += current().text;
      Next();
    } while ((sign && IsWord()) || (Touches() && (IsWord() || Is("-") || Is("+") || Is("."))));
    return value;
  }
  bool IsWord() const {
    return current().type == Tokenizer::TYPE_IDENTIFIER ||
           current().type == Tokenizer::TYPE_INTEGER || current().type == Tokenizer::TYPE_FLOAT;
  }
  bool Touches() const {
    const Token& before = tokens_[at_ - 1];
    return current().line == before.line && current().column == before.end_column;
  }

  const std::vector<Token>& tokens_;
  size_t at_ = 0;
  FieldOrigins* origins_;
  Problems* problems_;
};

}  // namespace

void ReadTextProto(const std::string& text, const std::string& prefix, Message* message,
                   FieldOrigins* origins, std::vector<ConfigProblem>* problems) {
  Problems collected(origins->file(), problems);
  const std::vector<Token> tokens = Tokenize(text, &collected);
  Reader(tokens, origins, &collected).ReadFields(message, prefix, "", 0);
}

bool ReadConfigFile(const std::string& path, std::string* text,
                    std::vector<ConfigProblem>* problems) {
  std::FILE* file = std::fopen(path.c_str(), "rb");
  if (file == nullptr) {
    problems->push_back({path, absl::StrCat("cannot be read: ", std::strerror(errno))});
    return false;
  }
  // Piece by piece: a config is far shorter than the most that is accepted.
  std::array<char, 16384> piece;
  text->clear();
  size_t bytes = 0;
  while (text->size() <= kMaxFileBytes &&
         (bytes = std::fread(piece.data(), 1, piece.size(), file)) > 0) {
    text->append(piece.data(), bytes);
  }
  const bool failed = std::ferror(file) != 0;
  const int error = errno;
  std::fclose(file);
  if (failed) {
    problems->push_back({path, absl::StrCat("cannot be read: ", std::strerror(error))});
    return false;
  }
  if (text->size() > kMaxFileBytes) {
    problems->push_back({path, "is no config: wanted a text of at most 1 MiB, found more"});
    return false;
  }
  return true;
}

}  // namespace muster::runtime
