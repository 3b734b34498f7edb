#include "runtime/input/token_array.h"

#include <cstring>

#include "absl/strings/str_cat.h"
#include "kernels/base/error.h"

namespace muster::runtime {
namespace {

// Index of the first token outside [0, vocab_size), or -1. Converts all of them to int32.
template <typename Element>
int64_t Convert(const char* data, int64_t begin, int64_t count, int64_t vocab_size, int32_t* out) {
  const char* from = data + begin * static_cast<int64_t>(sizeof(Element));
  bool legal = true;
  for (int64_t i = 0; i < count; ++i) {
    Element element;  // the payload's alignment is the format's choice
    std::memcpy(&element, from + i * static_cast<int64_t>(sizeof(Element)), sizeof(Element));
    const int64_t token = static_cast<int64_t>(element);
    legal &= token >= 0 && token < vocab_size;
    out[i] = static_cast<int32_t>(token);
  }
  if (legal) return -1;
  for (int64_t i = 0; i < count; ++i) {
    Element element;
    std::memcpy(&element, from + i * static_cast<int64_t>(sizeof(Element)), sizeof(Element));
    const int64_t token = static_cast<int64_t>(element);
    if (token < 0 || token >= vocab_size) return i;
  }
  return -1;
}

int64_t ConvertTokens(TokenType type, const char* data, int64_t begin, int64_t count,
                      int64_t vocab_size, int32_t* out) {
  switch (type) {
    case TokenType::kUInt8:
      return Convert<uint8_t>(data, begin, count, vocab_size, out);
    case TokenType::kInt16:
      return Convert<int16_t>(data, begin, count, vocab_size, out);
    case TokenType::kUInt16:
      return Convert<uint16_t>(data, begin, count, vocab_size, out);
    case TokenType::kInt32:
      return Convert<int32_t>(data, begin, count, vocab_size, out);
    case TokenType::kUInt32:
      return Convert<uint32_t>(data, begin, count, vocab_size, out);
    case TokenType::kInt64:
      return Convert<int64_t>(data, begin, count, vocab_size, out);
  }
  return -1;
}

// The value of one token, for a message.
int64_t TokenAt(TokenType type, const char* data, int64_t index) {
  const char* from = data + index * BytesOf(type);
  const auto load = [from](auto element) {
    std::memcpy(&element, from, sizeof(element));
    return static_cast<int64_t>(element);
  };
  switch (type) {
    case TokenType::kUInt8:
      return load(uint8_t{});
    case TokenType::kInt16:
      return load(int16_t{});
    case TokenType::kUInt16:
      return load(uint16_t{});
    case TokenType::kInt32:
      return load(int32_t{});
    case TokenType::kUInt32:
      return load(uint32_t{});
    case TokenType::kInt64:
      return load(int64_t{});
  }
  return 0;
}

class TokenArray : public TokenSource {
 public:
  TokenArray(TokenType type, TokenFacts facts, std::string path)
      : type_(type), facts_(std::move(facts)), path_(std::move(path)) {
    facts_.element = Name(type);
  }
  const TokenFacts& facts() const override { return facts_; }
  const std::string& path() const override { return path_; }

  absl::Status Read(int64_t begin, int64_t count, int vocab_size, int32_t* out) const override {
    if (begin < 0 || count < 0 || begin > facts_.num_tokens || count > facts_.num_tokens - begin) {
      return absl::OutOfRangeError(absl::StrCat(path_, ": wanted ", count, " tokens from position ",
                                                begin, ", found ", facts_.num_tokens,
                                                " tokens in all"));
    }
    const int64_t illegal = ConvertTokens(type_, data_, begin, count, vocab_size, out);
    if (illegal < 0) return absl::OkStatus();
    return absl::DataLossError(absl::StrCat(
        path_, ": token ", TokenAt(type_, data_, begin + illegal), " at position ", begin + illegal,
        ": wanted ids from 0 to ", vocab_size - 1,
        ", the model's vocabulary; the file is damaged or made for another vocabulary"));
  }

 protected:
  const char* data_ = nullptr;

 private:
  TokenType type_;
  TokenFacts facts_;
  std::string path_;
};

class MappedTokens : public TokenArray {
 public:
  MappedTokens(MappedFile file, size_t offset, TokenType type, TokenFacts facts)
      : TokenArray(type, std::move(facts), file.path()), file_(std::move(file)) {
    MUSTER_CHECK(offset <= file_.size());
    MUSTER_CHECK(static_cast<uint64_t>(num_tokens()) <=
                 (file_.size() - offset) / static_cast<size_t>(BytesOf(type)));
    data_ = file_.data() + offset;
  }

 private:
  MappedFile file_;
};

class TokensInMemory : public TokenArray {
 public:
  TokensInMemory(std::vector<int32_t> tokens, TokenFacts facts, std::string name)
      : TokenArray(TokenType::kInt32, std::move(facts), std::move(name)),
        tokens_(std::move(tokens)) {
    data_ = reinterpret_cast<const char*>(tokens_.data());
  }

 private:
  std::vector<int32_t> tokens_;
};

}  // namespace

int BytesOf(TokenType type) {
  switch (type) {
    case TokenType::kUInt8:
      return 1;
    case TokenType::kInt16:
    case TokenType::kUInt16:
      return 2;
    case TokenType::kInt32:
    case TokenType::kUInt32:
      return 4;
    case TokenType::kInt64:
      return 8;
  }
  return 0;
}

const char* Name(TokenType type) {
  switch (type) {
    case TokenType::kUInt8:
      return "uint8";
    case TokenType::kInt16:
      return "int16";
    case TokenType::kUInt16:
      return "uint16";
    case TokenType::kInt32:
      return "int32";
    case TokenType::kUInt32:
      return "uint32";
    case TokenType::kInt64:
      return "int64";
  }
  return "?";
}

std::unique_ptr<TokenSource> MakeMappedTokens(MappedFile file, size_t offset, TokenType type,
                                              TokenFacts facts) {
  return std::make_unique<MappedTokens>(std::move(file), offset, type, std::move(facts));
}

std::unique_ptr<TokenSource> MakeTokensInMemory(std::vector<int32_t> tokens, TokenFacts facts,
                                                std::string name) {
  facts.num_tokens = static_cast<int64_t>(tokens.size());
  return std::make_unique<TokensInMemory>(std::move(tokens), std::move(facts), std::move(name));
}

}  // namespace muster::runtime
