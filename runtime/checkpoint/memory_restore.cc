#include "runtime/checkpoint/memory_restore.h"

#include <unistd.h>

#include <algorithm>
#include <filesystem>
#include <map>
#include <memory>
#include <optional>
#include <utility>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_split.h"
#include "kernels/base/error.h"
#include "kernels/base/log.h"
#include "runtime/checkpoint/agreement.h"
#include "runtime/checkpoint/reader.h"
#include "runtime/checkpoint/retention.h"
#include "runtime/checkpoint/writer.h"
#include "runtime/job/mapped_file.h"

namespace muster::runtime {
namespace {

namespace fs = std::filesystem;

constexpr int kMaxShards = 1 << 20;

std::string WholeDirectory(const MemorySite& site) { return site.directory() + "/whole"; }

// One verified copy: of a shard of a snapshot.
struct Copy {
  int64_t step = 0;
  int attempt = 0, num_shards = 0, shard = 0;
  int64_t bytes = 0;
};

std::string Text(const Copy& copy) {
  return absl::StrFormat("%d %d %d %d %d\n", copy.step, copy.attempt, copy.num_shards, copy.shard,
                         copy.bytes);
}

std::optional<Copy> ParseCopy(absl::string_view line) {
  const std::vector<std::string> words = absl::StrSplit(line, ' ');
  Copy copy;
  if (words.size() != 5 || !absl::SimpleAtoi(words[0], &copy.step) ||
      !absl::SimpleAtoi(words[1], &copy.attempt) || !absl::SimpleAtoi(words[2], &copy.num_shards) ||
      !absl::SimpleAtoi(words[3], &copy.shard) || !absl::SimpleAtoi(words[4], &copy.bytes) ||
      copy.num_shards < 1 || copy.num_shards > kMaxShards || copy.shard < 0 ||
      copy.shard >= copy.num_shards) {
    return std::nullopt;
  }
  return copy;
}

// "record-<r>.json" -> r; -1 for any other name.
int ShardOfRecord(const std::string& name) {
  int shard = -1;
  const std::vector<std::string> parts = absl::StrSplit(name, absl::ByAnyChar("-."));
  if (parts.size() != 3 || !absl::SimpleAtoi(parts[1], &shard) || shard < 0 ||
      RecordName(shard) != name) {
    return -1;
  }
  return shard;
}

// Reads every byte of a copy. Errors: it is not whole, or not what its names say.
absl::StatusOr<Copy> VerifyCopy(const std::string& directory, int64_t step, int shard) {
  ASSIGN_OR_RETURN(const std::unique_ptr<CheckpointReader> reader,
                   CheckpointReader::OpenPart(directory, RecordName(shard)));
  RETURN_IF_ERROR(reader->VerifyAll());
  const Manifest& part = reader->manifest();
  const std::string& file = part.shards.front().file;
  // shard-<r>-of-<n>.safetensors
  const std::vector<std::string> words = absl::StrSplit(file, absl::ByAnyChar("-."));
  int num_shards = 0;
  if (words.size() != 5 || !absl::SimpleAtoi(words[3], &num_shards) || num_shards < 1 ||
      file != ShardName(shard, num_shards) || part.facts.step != step) {
    return absl::DataLossError(directory + "/" + RecordName(shard) + " is of " + file +
                               " of step " + absl::StrCat(part.facts.step));
  }
  return Copy{step, part.facts.attempt, num_shards, shard, part.bytes()};
}

// The good copies of this host; its ranks share the work.
std::string OwnCopies(const MemorySite& site) {
  const std::vector<int>& ranks = site.hosts().ranks[static_cast<size_t>(site.host())];
  const auto place =
      static_cast<size_t>(std::find(ranks.begin(), ranks.end(), site.rank()) - ranks.begin());
  std::string good;
  size_t number = 0;
  const absl::StatusOr<std::vector<int64_t>> steps = ListCheckpoints(site.directory());
  if (!steps.ok()) return good;
  for (const int64_t step : *steps) {
    const std::string directory = site.directory() + "/" + CheckpointName(step);
    std::vector<int> shards;
    std::error_code error;
    for (const fs::directory_entry& entry : fs::directory_iterator(directory, error)) {
      const int shard = ShardOfRecord(entry.path().filename().string());
      if (shard >= 0) shards.push_back(shard);
    }
    std::sort(shards.begin(), shards.end());
    for (const int shard : shards) {
      if (number++ % ranks.size() != place) continue;
      const absl::StatusOr<Copy> copy = VerifyCopy(directory, step, shard);
      if (copy.ok()) {
        good += Text(*copy);
      } else {
        kernels::Log(kernels::Severity::kError,
                     absl::StrCat("copy in memory passed by: ", copy.status().message()));
      }
    }
  }
  return good;
}

// What PutTogether does on one rank.
class Assembly {
 public:
  Assembly(const MemoryCheckpoint& checkpoint, MemorySite& site)
      : checkpoint_(checkpoint),
        site_(site),
        name_(CheckpointName(checkpoint.step)),
        from_(site.directory() + "/" + name_),
        to_(WholeDirectory(site) + "/" + name_) {}

  absl::Status Run() {
    RETURN_IF_ERROR(OnAll(Prepare()));
    absl::Status mine;  // an error is kept until all have sent what others lack
    for (int shard = 0; shard < num_shards(); ++shard) {
      for (const std::string& file : {ShardName(shard, num_shards()), RecordName(shard)}) {
        if (site_.leads() && Has(shard, site_.host()) && mine.ok()) {
          mine = site_.disk().Link(from_ + "/" + file, to_ + "/" + file);
        }
        ASSIGN_OR_RETURN(const absl::Status sent, Send(shard, file));
        if (mine.ok()) mine = sent;
      }
    }
    if (mine.ok() && site_.leads()) mine = WriteWholeManifest();
    return OnAll(mine);
  }

 private:
  int num_shards() const { return static_cast<int>(checkpoint_.hosts_by_shard.size()); }
  bool Has(int shard, int host) const {
    const std::vector<int>& hosts = checkpoint_.hosts_by_shard[static_cast<size_t>(shard)];
    return std::binary_search(hosts.begin(), hosts.end(), host);
  }
  absl::Status OnAll(const absl::Status& mine) {
    ASSIGN_OR_RETURN(const absl::Status agreed, Agree(mine, site_.world()));
    return agreed;
  }

  absl::Status Prepare() {
    if (!site_.leads()) return absl::OkStatus();
    std::error_code error;
    fs::remove_all(WholeDirectory(site_), error);  // of the snapshot before; it took room
    int64_t lacking = 0;
    for (int shard = 0; shard < num_shards(); ++shard) {
      if (!Has(shard, site_.host())) lacking += checkpoint_.bytes[static_cast<size_t>(shard)];
    }
    ASSIGN_OR_RETURN(const int64_t room, site_.FreeBytes());
    if (lacking > room) {
      return absl::ResourceExhaustedError(absl::StrFormat(
          "%s lacks %.1f MB of %s and has room for %.1f MB in memory",
          site_.hosts().names[static_cast<size_t>(site_.host())],
          static_cast<double>(lacking) * 1e-6, name_, static_cast<double>(room) * 1e-6));
    }
    RETURN_IF_ERROR(site_.disk().MakeDirectory(WholeDirectory(site_)));
    return site_.disk().MakeDirectory(to_);
  }

  // A file of a shard from the first host that has it to all that lack it. The outer error is the
  // group's.
  absl::StatusOr<absl::Status> Send(int shard, const std::string& file) {
    const std::vector<int>& having = checkpoint_.hosts_by_shard[static_cast<size_t>(shard)];
    if (static_cast<int>(having.size()) == site_.hosts().num_hosts()) return absl::OkStatus();
    const int root = site_.hosts().leader(having.front());
    absl::StatusOr<MappedFile> source = absl::NotFoundError("");
    if (site_.rank() == root) source = MappedFile::Open(from_ + "/" + file);
    int64_t bytes = source.ok() ? static_cast<int64_t>(source->size()) : -1;
    RETURN_IF_ERROR(site_.Broadcast(reinterpret_cast<char*>(&bytes), sizeof(bytes), root));
    if (bytes < 0) return site_.rank() == root ? source.status() : absl::CancelledError(file);
    const bool writes = site_.leads() && !Has(shard, site_.host());
    absl::StatusOr<int> to = -1;
    if (writes) to = site_.disk().CreateNew(to_ + "/" + file);
    absl::Status status = to.status();
    const int64_t most = site_.options().chunk_bytes;
    for (int64_t at = 0; at < bytes; at += most) {
      chunk_.resize(static_cast<size_t>(std::min(most, bytes - at)));
      if (site_.rank() == root) {
        source->bytes().copy(chunk_.data(), chunk_.size(), static_cast<size_t>(at));
      }
      RETURN_IF_ERROR(site_.Broadcast(chunk_.data(), static_cast<int64_t>(chunk_.size()), root));
      if (!writes || !status.ok()) continue;
      status = site_.disk().Append(*to, to_ + "/" + file, chunk_.data(), chunk_.size());
    }
    if (writes && to.ok()) close(*to);
    return status;
  }

  // From the records, which it then no longer needs.
  absl::Status WriteWholeManifest() {
    Manifest whole;
    for (int shard = 0; shard < num_shards(); ++shard) {
      ASSIGN_OR_RETURN(const Manifest part, ReadManifest(to_, RecordName(shard)));
      if (shard == 0) whole.facts = part.facts;
      RETURN_IF_ERROR(Merge(part, &whole));
    }
    RETURN_IF_ERROR(CheckCoverage(whole));
    return WriteManifest(site_.disk(), to_ + "/" + kManifestName, whole);
  }

  const MemoryCheckpoint& checkpoint_;
  MemorySite& site_;
  const std::string name_, from_, to_;
  std::string chunk_;
};

// Collective. The first attempt whose snapshots may be used, as rank 0 sees it.
absl::StatusOr<int> FirstUsable(MemorySite& site) {
  absl::StatusOr<int> mine = -1;
  if (site.rank() == 0) mine = LastSetAside(site.options().run_directory + "/checkpoints");
  ASSIGN_OR_RETURN(const absl::Status listed, Agree(mine.status(), site.world()));
  RETURN_IF_ERROR(listed);
  ASSIGN_OR_RETURN(const std::vector<std::string> all,
                   site.world().GatherText(absl::StrCat(*mine)));
  int first = -1;
  MUSTER_CHECK(absl::SimpleAtoi(all.front(), &first)) << all.front();
  return first;
}

}  // namespace

absl::StatusOr<std::vector<MemoryCheckpoint>> FindInMemory(MemorySite& site) {
  ASSIGN_OR_RETURN(const int first_usable, FirstUsable(site));
  ASSIGN_OR_RETURN(const std::vector<std::string> all, site.world().GatherText(OwnCopies(site)));
  // By step, attempt and number of shards: copies that can belong together.
  std::map<std::array<int64_t, 3>, MemoryCheckpoint, std::greater<>> found;
  for (size_t rank = 0; rank < all.size(); ++rank) {
    for (const auto line : absl::StrSplit(all[rank], '\n', absl::SkipEmpty())) {
      const std::optional<Copy> copy = ParseCopy(line);
      if (!copy || copy->attempt < first_usable) continue;
      MemoryCheckpoint& checkpoint = found[{copy->step, copy->attempt, copy->num_shards}];
      checkpoint.step = copy->step;
      checkpoint.attempt = copy->attempt;
      checkpoint.bytes.resize(static_cast<size_t>(copy->num_shards));
      checkpoint.hosts_by_shard.resize(static_cast<size_t>(copy->num_shards));
      const auto shard = static_cast<size_t>(copy->shard);
      checkpoint.bytes[shard] = copy->bytes;
      checkpoint.hosts_by_shard[shard].push_back(site.hosts().host_of[rank]);
    }
  }
  std::vector<MemoryCheckpoint> complete;
  for (auto& [key, checkpoint] : found) {
    const auto missing =
        std::count_if(checkpoint.hosts_by_shard.begin(), checkpoint.hosts_by_shard.end(),
                      [](const std::vector<int>& hosts) { return hosts.empty(); });
    if (missing == 0) {
      for (std::vector<int>& hosts : checkpoint.hosts_by_shard) {
        std::sort(hosts.begin(), hosts.end());
      }
      complete.push_back(std::move(checkpoint));
    } else if (site.rank() == 0) {
      kernels::Log(kernels::Severity::kWarning,
                   absl::StrFormat("%s in memory is passed by: of its %d shards %d are on no host",
                                   CheckpointName(checkpoint.step), key[2], missing));
    }
  }
  return complete;
}

absl::StatusOr<RestoreSource> PutTogether(const MemoryCheckpoint& checkpoint, MemorySite& site) {
  RETURN_IF_ERROR(Assembly(checkpoint, site).Run());
  return RestoreSource{.directory = WholeDirectory(site), .step = checkpoint.step};
}

absl::Status KeepOnlyInMemory(int64_t step, MemorySite& site) {
  absl::Status mine;
  if (site.leads()) {
    std::error_code error;
    fs::remove_all(WholeDirectory(site), error);
    const absl::StatusOr<std::vector<int64_t>> steps = ListCheckpoints(site.directory());
    mine = steps.status();
    for (size_t i = 0; mine.ok() && i < steps->size(); ++i) {
      if ((*steps)[i] == step) continue;
      const std::string path = site.directory() + "/" + CheckpointName((*steps)[i]);
      mine = Retire(site.disk(), site.directory(), path, path);
    }
  }
  ASSIGN_OR_RETURN(const absl::Status agreed, Agree(mine, site.world()));
  return agreed;
}

}  // namespace muster::runtime
