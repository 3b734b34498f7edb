#pragma once
// Muster's own token file: a header of 4096 bytes, then the token ids, uint16 if the vocabulary
// fits and uint32 otherwise. All numbers are little-endian.
//
//   offset  bytes  field
//        0      8  magic "MUSTERTK"
//        8      4  version, 1
//       12      4  bytes per token, 2 or 4
//       16      8  vocabulary size; every id is below it
//       24      8  number of tokens
//       32      8  XXH3-64 of the payload
//       40      4  length of the provenance text, at most 4044
//       44   4044  provenance: UTF-8, zero-filled
//     4088      8  XXH3-64 of the header's first 4088 bytes
#include <cstdint>
#include <memory>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "runtime/input/token_source.h"
#include "runtime/job/mapped_file.h"

namespace muster::runtime {

constexpr size_t kTokenFileHeaderBytes = 4096;

// Writes a token file that appears whole at Commit, or never.
class TokenFileWriter {
 public:
  // `provenance` says where the tokens come from; cut to what the header holds. Errors: the
  // directory cannot be written; a vocabulary of no or more than 2^31 - 1 tokens.
  static absl::StatusOr<std::unique_ptr<TokenFileWriter>> Create(const std::string& path,
                                                                 int64_t vocab_size,
                                                                 const std::string& provenance);
  virtual ~TokenFileWriter() = default;
  // Errors: a token outside the vocabulary, with its position; the disk's.
  virtual absl::Status Append(const int32_t* tokens, int64_t count) = 0;
  // Writes the header, syncs, and gives the file its name.
  virtual absl::Status Commit() = 0;
  virtual int64_t num_tokens() const = 0;
  // Of the payload; after Commit.
  virtual uint64_t payload_hash() const = 0;
};

bool IsTokenFile(const MappedFile& file);
// Errors: as TokenSource::Open. The header's own hash is always verified.
absl::StatusOr<std::unique_ptr<TokenSource>> OpenTokenFile(MappedFile file, HashCheck hash_check);

}  // namespace muster::runtime
