#include "runtime/input/token_statistics.h"

#include <algorithm>
#include <cmath>

#include "kernels/base/error.h"

namespace muster::runtime {

void TokenCounts::Add(const int32_t* tokens, int64_t count) {
  for (int64_t i = 0; i < count; ++i) {
    MUSTER_CHECK(tokens[i] >= 0 && static_cast<size_t>(tokens[i]) < counts_.size()) << tokens[i];
    ++counts_[static_cast<size_t>(tokens[i])];
  }
  total_ += count;
}

absl::Status TokenCounts::AddAll(const TokenSource& source) {
  constexpr int64_t kChunkTokens = 1 << 16;
  std::vector<int32_t> chunk(static_cast<size_t>(kChunkTokens));
  for (int64_t begin = 0; begin < source.num_tokens(); begin += kChunkTokens) {
    const int64_t count = std::min(kChunkTokens, source.num_tokens() - begin);
    RETURN_IF_ERROR(source.Read(begin, count, static_cast<int>(counts_.size()), chunk.data()));
    Add(chunk.data(), count);
  }
  return absl::OkStatus();
}

int64_t TokenCounts::num_distinct() const {
  return std::count_if(counts_.begin(), counts_.end(), [](int64_t count) { return count > 0; });
}

double TokenCounts::EntropyNats() const {
  double entropy = 0;
  for (const int64_t count : counts_) {
    if (count == 0) continue;
    const double share = static_cast<double>(count) / static_cast<double>(total_);
    entropy -= share * std::log(share);
  }
  return entropy;
}

}  // namespace muster::runtime
