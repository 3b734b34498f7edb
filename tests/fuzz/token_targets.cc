// Token files: our own, Megatron-LM's pair, llm.c's.
#include <algorithm>
#include <cstring>
#include <vector>

#include "kernels/base/hash.h"
#include "runtime/input/foreign_formats.h"
#include "runtime/input/token_file.h"
#include "runtime/input/token_source.h"
#include "runtime/job/mapped_file.h"
#include "tests/fuzz/target.h"

namespace muster::fuzz {
namespace {

// What was accepted can be read at both ends, or says why not.
void ReadEnds(const runtime::TokenSource& source) {
  const int64_t count = std::min<int64_t>(source.num_tokens(), 64);
  std::vector<int32_t> tokens(static_cast<size_t>(count));
  (void)source.Read(0, count, 50257, tokens.data()).ok();
  (void)source.Read(source.num_tokens() - count, count, 50257, tokens.data()).ok();
  (void)source.Read(source.num_tokens(), 1, 50257, tokens.data()).ok();
}

void OpenAndRead(const std::string& path) {
  const auto source = runtime::TokenSource::Open(path);
  if (source.ok()) ReadEnds(**source);
}

}  // namespace

// The first byte says whether the header's and the payload's hashes are put right.
int TokenFile(std::string_view bytes) {
  if (bytes.empty()) return 0;
  std::string file(bytes.substr(1));
  if (bytes[0] % 2 == 1 && file.size() >= runtime::kTokenFileHeaderBytes) {
    const size_t header = runtime::kTokenFileHeaderBytes;
    uint64_t hash = kernels::Hash64(file.data() + header, file.size() - header);
    std::memcpy(file.data() + 32, &hash, sizeof(hash));
    hash = kernels::Hash64(file.data(), header - sizeof(hash));
    std::memcpy(file.data() + header - sizeof(hash), &hash, sizeof(hash));
  }
  OpenAndRead(FileOf("tokens.bin", file));
  return 0;
}

// Two bytes with the length of the index, the index, the ids.
int Megatron(std::string_view bytes) {
  if (bytes.size() < 2) return 0;
  uint16_t index_bytes = 0;
  std::memcpy(&index_bytes, bytes.data(), sizeof(index_bytes));
  bytes.remove_prefix(sizeof(index_bytes));
  const size_t cut = std::min<size_t>(index_bytes, bytes.size());
  const std::string index = FileOf("pair.idx", bytes.substr(0, cut));
  FileOf("pair.bin", bytes.substr(cut));
  const auto source = runtime::OpenMegatron(index.substr(0, index.size() - 4));
  if (source.ok()) ReadEnds(**source);
  return 0;
}

int Llmc(std::string_view bytes) {
  auto file = runtime::MappedFile::Open(FileOf("llmc.bin", bytes));
  if (!file.ok()) return 0;
  (void)runtime::IsLlmcFile(*file);
  const auto source = runtime::OpenLlmcFile(*std::move(file));
  if (source.ok()) ReadEnds(**source);
  return 0;
}

}  // namespace muster::fuzz
