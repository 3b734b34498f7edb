#include "runtime/input/batch_loader.h"

#include <algorithm>
#include <numeric>

#include "absl/strings/str_cat.h"
#include "kernels/base/error.h"
#include "kernels/base/rng.h"
#include "parallel/cp/sequence_chunks.h"
#include "runtime/input/synthetic_tokens.h"
#include "runtime/input/token_array.h"
#include "runtime/input/token_source.h"
#include "runtime/input/token_statistics.h"

namespace muster::runtime {
namespace {

constexpr int32_t kIgnoredTarget = -100;

struct LoaderShape {
  int64_t sequence_length = 0;              // S
  std::vector<parallel::SequenceRun> runs;  // of S: what this rank holds
  int64_t global_batch = 0;                 // sequences
  int64_t data_ranks = 0;                   //
  int64_t microbatch_sequences = 0;         //
  int vocab_size = 0;
  uint64_t seed = 0;

  int64_t local_length() const {
    int64_t length = 0;
    for (const parallel::SequenceRun& run : runs) length += run.length;
    return length;
  }
};

class WindowLoader : public BatchLoader {
 public:
  WindowLoader(std::vector<std::unique_ptr<TokenSource>> sources, const LoaderShape& shape)
      : sources_(std::move(sources)), shape_(shape) {
    for (const auto& source : sources_) {
      // Each window needs one token more than it feeds: the last target.
      const int64_t windows =
          source->num_tokens() < 1 ? 0 : (source->num_tokens() - 1) / shape_.sequence_length;
      window_ends_.push_back(num_windows() + windows);
      num_tokens_ += source->num_tokens();
    }
  }

  int64_t num_windows() const override { return window_ends_.empty() ? 0 : window_ends_.back(); }
  int64_t num_tokens() const override { return num_tokens_; }

  absl::Status Load(int64_t step, int data_rank, HostBatch* batch) const override {
    MUSTER_CHECK(step >= 0 && data_rank >= 0 && data_rank < shape_.data_ranks) << step;
    const int64_t sequences = shape_.global_batch / shape_.data_ranks;
    Resize(sequences, batch);
    for (int64_t i = 0; i < sequences; ++i) {
      const int64_t sample = step * shape_.global_batch + data_rank * sequences + i;
      RETURN_IF_ERROR(ReadWindow(WindowOfSample(sample), i, batch));
    }
    batch->global_valid_tokens = shape_.global_batch * shape_.sequence_length;
    return absl::OkStatus();
  }

  absl::Status LoadValidation(int64_t index, int data_rank, int64_t num_windows,
                              HostBatch* batch) const override {
    MUSTER_CHECK(index >= 0 && data_rank >= 0 && data_rank < shape_.data_ranks) << index;
    if (num_windows > this->num_windows()) {
      return absl::OutOfRangeError(
          absl::StrCat("wanted ", num_windows, " validation sequences (evaluate.sequences), found ",
                       this->num_windows(), " in the data"));
    }
    const int64_t sequences = shape_.microbatch_sequences;
    Resize(sequences, batch);
    const int64_t first = (index * shape_.data_ranks + data_rank) * sequences;
    for (int64_t i = 0; i < sequences; ++i) {
      if (first + i < num_windows) {
        RETURN_IF_ERROR(ReadWindow(first + i, i, batch));
      } else {
        FillIgnored(i, batch);
      }
    }
    batch->global_valid_tokens = num_windows * shape_.sequence_length;
    return absl::OkStatus();
  }

  absl::StatusOr<double> UnigramEntropy() const override {
    TokenCounts counts(shape_.vocab_size);
    for (const auto& source : sources_) RETURN_IF_ERROR(counts.AddAll(*source));
    return counts.EntropyNats();
  }

 private:
  int64_t WindowOfSample(int64_t sample) const {
    const int64_t epoch = sample / num_windows();
    // An order of its own for each epoch. The multiplier (2^64 / golden ratio) parts the seeds of
    // epochs from each other and from the run's other uses of its seed.
    const kernels::PhiloxKey key = kernels::MakePhiloxKey(
        shape_.seed + static_cast<uint64_t>(epoch) * 0x9E3779B97F4A7C15ull, "window order");
    return static_cast<int64_t>(kernels::PermuteIndex(
        key, static_cast<uint64_t>(sample % num_windows()), static_cast<uint64_t>(num_windows())));
  }

  void Resize(int64_t sequences, HostBatch* batch) const {
    const size_t size = static_cast<size_t>(sequences * shape_.local_length());
    batch->tokens.resize(size);
    batch->targets.resize(size);
    batch->positions.resize(size);
    int32_t* position = batch->positions.data();
    for (int64_t i = 0; i < sequences; ++i) {
      for (const parallel::SequenceRun& run : shape_.runs) {
        std::iota(position, position + run.length, static_cast<int32_t>(run.begin));
        position += run.length;
      }
    }
  }

  // This rank's part of window `window` of all files, to sequence `slot` of the batch.
  absl::Status ReadWindow(int64_t window, int64_t slot, HostBatch* batch) const {
    const auto end = std::upper_bound(window_ends_.begin(), window_ends_.end(), window);
    const size_t file = static_cast<size_t>(end - window_ends_.begin());
    const int64_t first = file == 0 ? 0 : window_ends_[file - 1];
    int32_t* tokens = batch->tokens.data() + slot * shape_.local_length();
    int32_t* targets = batch->targets.data() + slot * shape_.local_length();
    for (const auto& [run_begin, length] : shape_.runs) {
      const int64_t begin = (window - first) * shape_.sequence_length + run_begin;
      RETURN_IF_ERROR(sources_[file]->Read(begin, length, shape_.vocab_size, tokens));
      std::copy(tokens + 1, tokens + length, targets);
      RETURN_IF_ERROR(
          sources_[file]->Read(begin + length, 1, shape_.vocab_size, targets + length - 1));
      tokens += length;
      targets += length;
    }
    return absl::OkStatus();
  }

  void FillIgnored(int64_t slot, HostBatch* batch) const {
    const int64_t length = shape_.local_length();
    std::fill_n(batch->tokens.data() + slot * length, length, 0);
    std::fill_n(batch->targets.data() + slot * length, length, kIgnoredTarget);
  }

  std::vector<std::unique_ptr<TokenSource>> sources_;
  LoaderShape shape_;
  std::vector<int64_t> window_ends_;  // windows of this and all files before it
  int64_t num_tokens_ = 0;
};

std::unique_ptr<TokenSource> MakeSynthetic(const ResolvedJob& job, Split split) {
  const int64_t wanted = job.job.data().synthetic().tokens();
  // An eighth of the training tokens, and enough for every evaluation.
  const int64_t validation =
      std::max(wanted / 8, job.job.evaluate().sequences() * job.sequence_length + 1);
  TokenFacts facts;
  facts.format = "synthetic";
  facts.vocab_size = job.job.model().vocab_size();
  return MakeTokensInMemory(
      MakeSyntheticTokens(split == Split::kTrain ? wanted : validation, facts.vocab_size,
                          job.job.train().seed(), split == Split::kTrain ? 0 : 1),
      facts, split == Split::kTrain ? "data.synthetic (train)" : "data.synthetic (validation)");
}

absl::StatusOr<std::vector<std::unique_ptr<TokenSource>>> OpenSources(const ResolvedJob& job,
                                                                      Split split) {
  std::vector<std::unique_ptr<TokenSource>> sources;
  const Data& data = job.job.data();
  if (data.has_synthetic()) {
    sources.push_back(MakeSynthetic(job, split));
    return sources;
  }
  const auto& files = split == Split::kTrain ? data.train_files() : data.validation_files();
  for (const std::string& file : files) {
    ASSIGN_OR_RETURN(std::unique_ptr<TokenSource> source, TokenSource::Open(file));
    if (source->vocab_size() > job.job.model().vocab_size()) {
      return absl::InvalidArgumentError(
          absl::StrCat(file, ": wanted at most model.vocab_size, ", job.job.model().vocab_size(),
                       ", different tokens, found a vocabulary of ", source->vocab_size(),
                       "; use model.vocab_size=", source->vocab_size(), " or other data"));
    }
    sources.push_back(std::move(source));
  }
  return sources;
}

}  // namespace

absl::StatusOr<std::unique_ptr<BatchLoader>> BatchLoader::Create(const ResolvedJob& job,
                                                                 Split split, int context_rank) {
  ASSIGN_OR_RETURN(std::vector<std::unique_ptr<TokenSource>> sources, OpenSources(job, split));
  const char* field = split == Split::kTrain ? "data.train_files" : "data.validation_files";
  if (sources.empty()) {
    return absl::NotFoundError(absl::StrCat(field, ": wanted token files, found none named"));
  }
  LoaderShape shape;
  shape.sequence_length = job.sequence_length;
  shape.runs = parallel::ContextRuns(job.sequence_length, job.mesh.cp, context_rank);
  shape.global_batch = job.job.train().global_batch_sequences();
  shape.data_ranks = job.mesh.dp;
  shape.microbatch_sequences = job.microbatch_sequences;
  shape.vocab_size = job.job.model().vocab_size();
  shape.seed = job.job.train().seed();
  auto loader = std::make_unique<WindowLoader>(std::move(sources), shape);
  if (loader->num_windows() == 0) {
    return absl::InvalidArgumentError(
        absl::StrCat(field, ": wanted at least one window of train.sequence_length + 1 = ",
                     shape.sequence_length + 1, " tokens in a file, found ", loader->num_tokens(),
                     " tokens in all; use more data or a smaller train.sequence_length"));
  }
  return loader;
}

}  // namespace muster::runtime
