#include "runtime/input/inspect.h"

#include <algorithm>
#include <cstdio>
#include <memory>

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "kernels/base/error.h"
#include "kernels/base/hash.h"
#include "runtime/input/token_file.h"
#include "runtime/input/token_statistics.h"
#include "runtime/input/tokenizer.h"

namespace muster::runtime {
namespace {

constexpr int64_t kChunkTokens = 1 << 16;

absl::StatusOr<int> HighestId(const TokenSource& source) {
  std::vector<int32_t> chunk(static_cast<size_t>(kChunkTokens));
  int highest = -1;
  for (int64_t begin = 0; begin < source.num_tokens(); begin += kChunkTokens) {
    const int64_t count = std::min(kChunkTokens, source.num_tokens() - begin);
    RETURN_IF_ERROR(source.Read(begin, count, kLargestVocabulary, chunk.data()));
    highest = std::max(highest, *std::max_element(chunk.begin(), chunk.begin() + count));
  }
  return highest;
}

}  // namespace

absl::StatusOr<TokenReport> InspectTokens(const std::string& path,
                                          const std::string& tokenizer_file, int num_shown) {
  ASSIGN_OR_RETURN(const std::unique_ptr<TokenSource> source, TokenSource::Open(path));
  TokenReport report;
  report.path = source->path();
  report.facts = source->facts();
  ASSIGN_OR_RETURN(report.highest_id, HighestId(*source));
  TokenCounts counts(report.highest_id + 1);
  RETURN_IF_ERROR(counts.AddAll(*source));
  report.distinct_tokens = counts.num_distinct();
  report.unigram_entropy_nats = counts.EntropyNats();
  const int64_t shown = std::min<int64_t>(std::max(num_shown, 0), source->num_tokens());
  report.first_tokens.resize(static_cast<size_t>(shown));
  RETURN_IF_ERROR(source->Read(0, shown, kLargestVocabulary, report.first_tokens.data()));
  if (tokenizer_file.empty()) return report;
  ASSIGN_OR_RETURN(const std::unique_ptr<Tokenizer> tokenizer, Tokenizer::Load(tokenizer_file));
  if (tokenizer->vocab_size() <= report.highest_id) {
    return absl::InvalidArgumentError(absl::StrCat(
        tokenizer_file, ": wanted a vocabulary for ids up to ", report.highest_id, " of ", path,
        ", found ", tokenizer->vocab_size(), " tokens; the file was made with another tokenizer"));
  }
  ASSIGN_OR_RETURN(report.first_text, tokenizer->Decode(std::vector<int>(
                                          report.first_tokens.begin(), report.first_tokens.end())));
  return report;
}

std::string RenderText(const TokenReport& report) {
  char entropy[32];
  std::snprintf(entropy, sizeof(entropy), "%.4f", report.unigram_entropy_nats);
  std::string text =
      absl::StrCat("file         ", report.path, "\n", "format       ", report.facts.format, ", ",
                   report.facts.element, "\n", "tokens       ", report.facts.num_tokens, "\n");
  absl::StrAppend(&text, "vocabulary   ",
                  report.facts.vocab_size > 0 ? absl::StrCat(report.facts.vocab_size, ", ")
                                              : "not said by the format, ",
                  report.distinct_tokens, " of them used, highest id ", report.highest_id, "\n",
                  "entropy      ", entropy, " nats a token, of the token frequencies\n");
  if (report.facts.payload_hash != 0) {
    absl::StrAppend(&text, "hash         XXH3 ", kernels::HexDigits(report.facts.payload_hash),
                    ", verified\n");
  }
  if (!report.facts.provenance.empty()) {
    absl::StrAppend(&text, "made from    ", absl::Utf8SafeCEscape(report.facts.provenance), "\n");
  }
  absl::StrAppend(&text, "first ids    ", absl::StrJoin(report.first_tokens, " "), "\n");
  if (!report.first_text.empty()) {
    // Escaped: control characters in data must not reach the terminal.
    absl::StrAppend(&text, "first text   ", absl::Utf8SafeCEscape(report.first_text), "\n");
  }
  return text;
}

absl::StatusOr<TokenFacts> ImportTokens(const ImportOptions& options) {
  ASSIGN_OR_RETURN(const std::unique_ptr<TokenSource> source, TokenSource::Open(options.source));
  int vocab_size = options.vocab_size > 0 ? options.vocab_size : source->vocab_size();
  if (vocab_size == 0) {
    ASSIGN_OR_RETURN(const int highest, HighestId(*source));
    vocab_size = std::max(highest + 1, 1);
  }
  ASSIGN_OR_RETURN(const std::unique_ptr<TokenFileWriter> writer,
                   TokenFileWriter::Create(options.output, vocab_size,
                                           absl::StrCat("muster data import; ", source->path(),
                                                        " (", source->facts().format, ")")));
  std::vector<int32_t> chunk(static_cast<size_t>(kChunkTokens));
  for (int64_t begin = 0; begin < source->num_tokens(); begin += kChunkTokens) {
    if (options.progress) options.progress(begin, source->num_tokens());
    const int64_t count = std::min(kChunkTokens, source->num_tokens() - begin);
    RETURN_IF_ERROR(source->Read(begin, count, vocab_size, chunk.data()));
    RETURN_IF_ERROR(writer->Append(chunk.data(), count));
  }
  if (options.progress) options.progress(source->num_tokens(), source->num_tokens());
  RETURN_IF_ERROR(writer->Commit());
  ASSIGN_OR_RETURN(const std::unique_ptr<TokenSource> written,
                   TokenSource::Open(options.output, HashCheck::kSkip));
  return written->facts();
}

}  // namespace muster::runtime
