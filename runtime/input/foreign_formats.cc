#include "runtime/input/foreign_formats.h"

#include <cstring>
#include <filesystem>
#include <fstream>
#include <optional>

#include "absl/strings/str_cat.h"
#include "kernels/base/error.h"
#include "runtime/input/token_array.h"

namespace muster::runtime {
namespace {

constexpr char kMegatronMagic[] = "MMIDIDX\0";  // with the literal's own zero: nine bytes
constexpr size_t kMegatronMagicBytes = 9;
constexpr size_t kMegatronHeaderBytes = 34;
constexpr int32_t kLlmcGpt2Magic = 20240520;
constexpr int32_t kLlmcLlama3Magic = 20240801;
constexpr size_t kLlmcHeaderBytes = 1024;

template <typename T>
T Load(const char* data, size_t offset) {
  T value;
  std::memcpy(&value, data + offset, sizeof(T));
  return value;
}

bool HasMegatronMagic(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  char found[kMegatronMagicBytes] = {};
  file.read(found, kMegatronMagicBytes);
  return file.good() && std::memcmp(found, kMegatronMagic, kMegatronMagicBytes) == 0;
}

std::optional<TokenType> MegatronType(uint8_t code) {
  switch (code) {
    case 1:
      return TokenType::kUInt8;
    case 3:
      return TokenType::kInt16;
    case 4:
      return TokenType::kInt32;
    case 5:
      return TokenType::kInt64;
    case 8:
      return TokenType::kUInt16;
    default:  // 2: int8, 6 and 7: floating point
      return std::nullopt;
  }
}

struct MegatronIndex {
  TokenType type;
  uint64_t num_sequences;
  uint64_t num_tokens;
};

// Sums the lengths and checks that sequences lie one after another.
absl::StatusOr<uint64_t> SumLengths(const MappedFile& file, TokenType type, uint64_t sequences) {
  const char* lengths = file.data() + kMegatronHeaderBytes;
  const char* offsets = lengths + sequences * sizeof(int32_t);
  const uint64_t token_bytes = static_cast<uint64_t>(BytesOf(type));
  uint64_t tokens = 0;
  for (uint64_t i = 0; i < sequences; ++i) {
    const int32_t length = Load<int32_t>(lengths, i * sizeof(int32_t));
    const int64_t offset = Load<int64_t>(offsets, i * sizeof(int64_t));
    if (length < 0 || offset < 0 || static_cast<uint64_t>(offset) != tokens * token_bytes) {
      return absl::DataLossError(
          absl::StrCat(file.path(), ": wanted sequence ", i, " at byte ", tokens * token_bytes,
                       " of the .bin, ", "found offset ", offset, " and length ", length,
                       "; only data sets whose sequences lie in order without gaps can be read"));
    }
    tokens += static_cast<uint64_t>(length);
  }
  return tokens;
}

absl::StatusOr<MegatronIndex> ReadMegatronIndex(const MappedFile& file) {
  if (file.size() < kMegatronHeaderBytes ||
      std::memcmp(file.data(), kMegatronMagic, kMegatronMagicBytes) != 0) {
    return absl::InvalidArgumentError(absl::StrCat(
        file.path(), ": wanted a Megatron-LM index (magic MMIDIDX and a header of ",
        kMegatronHeaderBytes, " bytes), found another file of ", file.size(), " bytes"));
  }
  const uint64_t version = Load<uint64_t>(file.data(), 9);
  if (version != 1) {
    return absl::InvalidArgumentError(
        absl::StrCat(file.path(), ": wanted index version 1, found ", version));
  }
  const uint8_t code = Load<uint8_t>(file.data(), 17);
  const std::optional<TokenType> type = MegatronType(code);
  if (!type.has_value()) {
    return absl::InvalidArgumentError(absl::StrCat(
        file.path(), ": wanted token type code 1, 3, 4, 5 or 8 (uint8, int16, int32, int64, ",
        "uint16), found ", static_cast<int>(code)));
  }
  const uint64_t sequences = Load<uint64_t>(file.data(), 18);
  const uint64_t bounds = Load<uint64_t>(file.data(), 26);
  // Counts above the file's size could overflow the products below.
  const uint64_t rest = file.size() - kMegatronHeaderBytes;
  const bool plausible = sequences <= rest / 12 && bounds <= rest / 8;
  const uint64_t wanted = plausible ? sequences * 12 + bounds * 8 : 0;
  if (!plausible || (rest != wanted && rest != wanted + sequences)) {
    return absl::DataLossError(absl::StrCat(
        file.path(), ": its header says ", sequences, " sequences and ", bounds,
        " document bounds, which its ", file.size(), " bytes do not hold; it is damaged"));
  }
  ASSIGN_OR_RETURN(const uint64_t tokens, SumLengths(file, *type, sequences));
  return MegatronIndex{*type, sequences, tokens};
}

}  // namespace

std::string MegatronPrefix(const std::string& path) {
  std::string prefix = path;
  const std::filesystem::path name = path;
  if (name.extension() == ".bin" || name.extension() == ".idx") {
    prefix = path.substr(0, path.size() - 4);
  }
  std::error_code ignored;
  const bool pair = std::filesystem::is_regular_file(prefix + ".bin", ignored) &&
                    std::filesystem::is_regular_file(prefix + ".idx", ignored);
  return pair && HasMegatronMagic(prefix + ".idx") ? prefix : "";
}

absl::StatusOr<std::unique_ptr<TokenSource>> OpenMegatron(const std::string& prefix) {
  ASSIGN_OR_RETURN(const MappedFile index_file, MappedFile::Open(prefix + ".idx"));
  ASSIGN_OR_RETURN(const MegatronIndex index, ReadMegatronIndex(index_file));
  ASSIGN_OR_RETURN(MappedFile file, MappedFile::Open(prefix + ".bin"));
  const uint64_t token_bytes = static_cast<uint64_t>(BytesOf(index.type));
  // A product could overflow with the lengths of a damaged index.
  if (file.size() % token_bytes != 0 || file.size() / token_bytes != index.num_tokens) {
    return absl::DataLossError(absl::StrCat(file.path(), ": wanted ", index.num_tokens,
                                            " tokens of ", Name(index.type), " (by ", prefix,
                                            ".idx), found ", file.size(), " bytes"));
  }
  TokenFacts facts;
  facts.format = "Megatron-LM .bin/.idx";
  facts.num_tokens = static_cast<int64_t>(index.num_tokens);
  facts.provenance = absl::StrCat(index.num_sequences, " sequences");
  return MakeMappedTokens(std::move(file), 0, index.type, std::move(facts));
}

bool IsLlmcFile(const MappedFile& file) {
  if (file.size() < sizeof(int32_t)) return false;
  const int32_t magic = Load<int32_t>(file.data(), 0);
  return magic == kLlmcGpt2Magic || magic == kLlmcLlama3Magic;
}

absl::StatusOr<std::unique_ptr<TokenSource>> OpenLlmcFile(MappedFile file) {
  if (file.size() < kLlmcHeaderBytes) {
    return absl::DataLossError(absl::StrCat(file.path(), ": wanted an llm.c header of ",
                                            kLlmcHeaderBytes, " bytes, found ", file.size(),
                                            " bytes in all"));
  }
  const bool llama3 = Load<int32_t>(file.data(), 0) == kLlmcLlama3Magic;
  const int32_t version = Load<int32_t>(file.data(), 4), wanted_version = llama3 ? 7 : 1;
  if (version != wanted_version) {
    return absl::InvalidArgumentError(absl::StrCat(file.path(), ": wanted version ", wanted_version,
                                                   " of llm.c's token files, found ", version));
  }
  const TokenType type = llama3 ? TokenType::kUInt32 : TokenType::kUInt16;
  const int32_t tokens = Load<int32_t>(file.data(), 8);
  const uint64_t payload = file.size() - kLlmcHeaderBytes;
  if (tokens < 0 || payload != static_cast<uint64_t>(tokens) * BytesOf(type)) {
    return absl::DataLossError(absl::StrCat(file.path(), ": its header says ", tokens,
                                            " tokens of ", Name(type), ", but ", payload,
                                            " bytes follow it"));
  }
  TokenFacts facts;
  facts.format = "llm.c .bin";
  facts.num_tokens = tokens;
  return MakeMappedTokens(std::move(file), kLlmcHeaderBytes, type, std::move(facts));
}

}  // namespace muster::runtime
