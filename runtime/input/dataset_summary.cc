#include "runtime/input/dataset_summary.h"

#include <nlohmann/json.hpp>

#include "kernels/base/hash.h"

namespace muster::runtime {
namespace {

using Json = nlohmann::ordered_json;

Json ToJson(const SplitSummary& split) {
  return {{"file", split.file},
          {"text_bytes", split.text_bytes},
          {"tokens", split.tokens},
          {"tokens_per_byte", split.tokens_per_byte()},
          {"distinct_tokens", split.distinct_tokens},
          {"unigram_entropy_nats", split.unigram_entropy_nats},
          {"payload_xxh3", kernels::HexDigits(split.payload_hash)}};
}

}  // namespace

std::string ToJson(const DatasetSummary& summary) {
  Json sources = Json::array();
  for (const TextSource& source : summary.sources) {
    sources.push_back({{"path", source.path},
                       {"bytes", source.bytes},
                       {"sha256", source.sha256},
                       {"invalid_bytes", source.invalid_bytes}});
  }
  const Json json = {{"version", 1},
                     {"sources", sources},
                     {"tokenizer",
                      {{"file", "tokenizer.model"},
                       {"sha256", summary.tokenizer_sha256},
                       {"vocab_size", summary.vocab_size},
                       {"trained_on_bytes", summary.tokenizer_text_bytes}}},
                     {"validation_every", summary.validation_every},
                     {"train", ToJson(summary.train)},
                     {"validation", ToJson(summary.validation)}};
  // A path may hold any bytes; what is no UTF-8 is replaced, not thrown.
  return json.dump(2, ' ', false, Json::error_handler_t::replace) + "\n";
}

}  // namespace muster::runtime
