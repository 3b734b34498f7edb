#include "runtime/input/token_file.h"

#define XXH_INLINE_ALL
#include <xxhash.h>

#include <array>
#include <cstring>
#include <limits>
#include <vector>

#include "absl/strings/str_cat.h"
#include "kernels/base/error.h"
#include "kernels/base/hash.h"
#include "runtime/input/token_array.h"
#include "runtime/job/atomic_file.h"

namespace muster::runtime {
namespace {

constexpr char kMagic[9] = "MUSTERTK";
constexpr size_t kMagicBytes = 8;
constexpr uint32_t kVersion = 1;
constexpr size_t kProvenanceBytes = 4044;
constexpr size_t kHashedBytes = 4088;
constexpr size_t kBufferBytes = 1 << 20;

// The header as it lies in the file.
struct Header {
  char magic[kMagicBytes];
  uint32_t version;
  uint32_t token_bytes;
  uint64_t vocab_size;
  uint64_t num_tokens;
  uint64_t payload_hash;
  uint32_t provenance_bytes;
  char provenance[kProvenanceBytes];
  uint64_t header_hash;
};
static_assert(sizeof(Header) == kTokenFileHeaderBytes);
static_assert(offsetof(Header, header_hash) == kHashedBytes);
static_assert(std::endian::native == std::endian::little, "token files are little-endian");

uint64_t HashOf(const Header& header) { return kernels::Hash64(&header, kHashedBytes); }

class Writer : public TokenFileWriter {
 public:
  Writer(std::unique_ptr<AtomicFile> file, std::string path, int64_t vocab_size,
         const std::string& provenance)
      : file_(std::move(file)), path_(std::move(path)) {
    std::memcpy(header_.magic, kMagic, kMagicBytes);
    header_.version = kVersion;
    header_.token_bytes = vocab_size <= (1 << 16) ? 2 : 4;
    header_.vocab_size = static_cast<uint64_t>(vocab_size);
    header_.provenance_bytes = static_cast<uint32_t>(std::min(provenance.size(), kProvenanceBytes));
    std::memcpy(header_.provenance, provenance.data(), header_.provenance_bytes);
    XXH3_64bits_reset(&hash_);
    buffer_.reserve(kBufferBytes + 4);
  }

  absl::Status Append(const int32_t* tokens, int64_t count) override {
    for (int64_t i = 0; i < count; ++i) {
      const int32_t token = tokens[i];
      if (token < 0 || static_cast<uint64_t>(token) >= header_.vocab_size) {
        return absl::InvalidArgumentError(
            absl::StrCat(path_, ": token ", token, " at position ", header_.num_tokens,
                         ": wanted ids from 0 to ", header_.vocab_size - 1));
      }
      const char* bytes = reinterpret_cast<const char*>(&token);  // little-endian: low half first
      buffer_.insert(buffer_.end(), bytes, bytes + header_.token_bytes);
      ++header_.num_tokens;
      if (buffer_.size() >= kBufferBytes) RETURN_IF_ERROR(Flush());
    }
    return absl::OkStatus();
  }

  absl::Status Commit() override {
    RETURN_IF_ERROR(Flush());
    header_.payload_hash = XXH3_64bits_digest(&hash_);
    header_.header_hash = HashOf(header_);
    RETURN_IF_ERROR(file_->WriteAt(0, &header_, sizeof(header_)));
    return file_->Commit();
  }

  int64_t num_tokens() const override { return static_cast<int64_t>(header_.num_tokens); }
  uint64_t payload_hash() const override { return header_.payload_hash; }
  absl::Status ReserveHeader() { return file_->Write(&header_, sizeof(header_)); }

 private:
  absl::Status Flush() {
    XXH3_64bits_update(&hash_, buffer_.data(), buffer_.size());
    RETURN_IF_ERROR(file_->Write(buffer_.data(), buffer_.size()));
    buffer_.clear();
    return absl::OkStatus();
  }

  std::unique_ptr<AtomicFile> file_;
  std::string path_;
  Header header_{};
  XXH3_state_t hash_;
  std::vector<char> buffer_;
};

absl::Status Damaged(const MappedFile& file, const std::string& what) {
  return absl::DataLossError(
      absl::StrCat(file.path(), " is no sound token file: ", what, "; copy or prepare it again"));
}

absl::Status CheckHeader(const MappedFile& file, const Header& header) {
  if (header.version != kVersion) {
    return absl::InvalidArgumentError(absl::StrCat(file.path(), ": wanted token file version ",
                                                   kVersion, ", found ", header.version,
                                                   "; a newer Muster may read it"));
  }
  if (header.header_hash != HashOf(header)) {
    return Damaged(file, absl::StrCat("wanted header hash ", kernels::HexDigits(header.header_hash),
                                      ", found ", kernels::HexDigits(HashOf(header))));
  }
  if (header.token_bytes != 2 && header.token_bytes != 4) {
    return Damaged(file, absl::StrCat("wanted 2 or 4 bytes per token, found ", header.token_bytes));
  }
  if (header.vocab_size < 1 || header.vocab_size > std::numeric_limits<int32_t>::max()) {
    return Damaged(file, absl::StrCat("wanted a vocabulary of 1 to 2147483647 tokens, found ",
                                      header.vocab_size));
  }
  if (header.provenance_bytes > kProvenanceBytes) {
    return Damaged(file, absl::StrCat("wanted at most ", kProvenanceBytes,
                                      " bytes of provenance, found ", header.provenance_bytes));
  }
  const uint64_t payload = file.size() - kTokenFileHeaderBytes;
  if (header.num_tokens != payload / header.token_bytes || payload % header.token_bytes != 0) {
    return Damaged(
        file, absl::StrCat("its header says ", header.num_tokens, " tokens of ", header.token_bytes,
                           " bytes, but ", payload, " bytes follow it"));
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<std::unique_ptr<TokenFileWriter>> TokenFileWriter::Create(
    const std::string& path, int64_t vocab_size, const std::string& provenance) {
  if (vocab_size < 1 || vocab_size > std::numeric_limits<int32_t>::max()) {
    return absl::InvalidArgumentError(
        absl::StrCat(path, ": wanted a vocabulary of 1 to 2147483647 tokens, found ", vocab_size));
  }
  ASSIGN_OR_RETURN(std::unique_ptr<AtomicFile> file, AtomicFile::Create(path));
  auto writer = std::make_unique<Writer>(std::move(file), path, vocab_size, provenance);
  RETURN_IF_ERROR(writer->ReserveHeader());
  return writer;
}

bool IsTokenFile(const MappedFile& file) {
  return file.size() >= kMagicBytes && std::memcmp(file.data(), kMagic, kMagicBytes) == 0;
}

absl::StatusOr<std::unique_ptr<TokenSource>> OpenTokenFile(MappedFile file, HashCheck hash_check) {
  if (file.size() < kTokenFileHeaderBytes) {
    return Damaged(file, absl::StrCat("wanted a header of ", kTokenFileHeaderBytes,
                                      " bytes, found ", file.size(), " bytes in all"));
  }
  Header header;
  std::memcpy(&header, file.data(), sizeof(header));
  RETURN_IF_ERROR(CheckHeader(file, header));
  if (hash_check == HashCheck::kVerify) {
    const uint64_t found =
        kernels::Hash64(file.data() + kTokenFileHeaderBytes, file.size() - kTokenFileHeaderBytes);
    if (found != header.payload_hash) {
      return Damaged(file,
                     absl::StrCat("wanted payload hash ", kernels::HexDigits(header.payload_hash),
                                  ", found ", kernels::HexDigits(found)));
    }
  }
  TokenFacts facts;
  facts.format = "Muster token file";
  facts.num_tokens = static_cast<int64_t>(header.num_tokens);
  facts.vocab_size = static_cast<int>(header.vocab_size);
  facts.payload_hash = header.payload_hash;
  facts.provenance.assign(header.provenance, header.provenance_bytes);
  const TokenType type = header.token_bytes == 2 ? TokenType::kUInt16 : TokenType::kUInt32;
  return MakeMappedTokens(std::move(file), kTokenFileHeaderBytes, type, std::move(facts));
}

}  // namespace muster::runtime
