#include "runtime/checkpoint/memory_store.h"

#include <unistd.h>

#include <algorithm>
#include <cstring>
#include <string>

#include "kernels/base/error.h"
#include "kernels/device/span.h"
#include "runtime/checkpoint/reader.h"
#include "runtime/checkpoint/retention.h"
#include "runtime/checkpoint/seconds_since.h"
#include "runtime/job/mapped_file.h"

namespace muster::runtime {
namespace {

using Pair = MemorySite::Pair;  // bytes of a shard and of its record; -1: they were not written

int64_t Sum(const Pair& sizes) { return sizes[0] + sizes[1]; }

// The copy of another rank's shard and record as it comes in.
class IncomingCopy {
 public:
  IncomingCopy(const Disk& disk, std::string directory, int rank, int num_ranks, Pair sizes)
      : disk_(disk),
        directory_(std::move(directory)),
        record_name_(RecordName(rank)),
        shard_path_(directory_ + "/" + ShardName(rank, num_ranks)),
        sizes_(sizes) {
    absl::StatusOr<int> created = disk_.CreateNew(shard_path_);
    status_ = created.status();
    if (created.ok()) shard_ = *created;
  }
  ~IncomingCopy() {
    if (shard_ >= 0) close(shard_);
  }
  IncomingCopy(const IncomingCopy&) = delete;
  IncomingCopy& operator=(const IncomingCopy&) = delete;

  int64_t BytesOfRound(int64_t round, int64_t chunk_bytes) const {
    return std::clamp(Sum(sizes_) - round * chunk_bytes, int64_t{0}, chunk_bytes);
  }
  // An error is kept: the rounds go on for the other ranks' sake.
  void Take(const char* data, int64_t bytes) {
    const int64_t of_shard = std::min(bytes, sizes_[0] - taken_);
    if (of_shard > 0 && status_.ok()) {
      status_ = disk_.Append(shard_, shard_path_, data, static_cast<size_t>(of_shard));
    }
    const int64_t before = std::max<int64_t>(of_shard, 0);
    record_.append(data + before, static_cast<size_t>(bytes - before));
    taken_ += bytes;
  }
  // Whether what has come is what was sent, by its hashes.
  absl::Status Finish() {
    RETURN_IF_ERROR(status_);
    const std::string path = directory_ + "/" + record_name_;
    RETURN_IF_ERROR(disk_.WriteNew(path, {{record_.data(), record_.size()}}));
    ASSIGN_OR_RETURN(const std::unique_ptr<CheckpointReader> reader,
                     CheckpointReader::OpenPart(directory_, record_name_));
    return reader->VerifyAll();
  }

 private:
  const Disk& disk_;
  const std::string directory_, record_name_, shard_path_;
  const Pair sizes_;
  int shard_ = -1;
  int64_t taken_ = 0;
  std::string record_;
  absl::Status status_;
};

class MemoryStore final : public CheckpointStore {
 public:
  explicit MemoryStore(MemorySite& site) : site_(site) {}

  absl::Status Save(const std::vector<HostPiece>& pieces, const WaitFor&,
                    SaveReport* report) override {
    const int64_t begin_ns = kernels::MonotonicNs();
    const std::string partial = site_.directory() + "/" + PartialName(report->facts);
    RETURN_IF_ERROR(OnAll(Prepare(partial, report->facts)));
    const absl::StatusOr<Pair> own = WriteOwn(partial, pieces, report);
    ASSIGN_OR_RETURN(const std::vector<Pair> sizes, site_.Gather(own.ok() ? *own : Pair{-1, -1}));
    RETURN_IF_ERROR(own.status());
    int64_t largest = 0;
    for (const Pair& each : sizes) {
      if (each[0] < 0) return absl::CancelledError("another rank wrote no copy");
      largest = std::max(largest, Sum(each));
      report->total_bytes += each[0];
    }
    if (site_.hosts().num_hosts() > 1) RETURN_IF_ERROR(PassOn(partial, sizes, largest));
    report->write_seconds = SecondsSince(begin_ns);
    if (!site_.leads()) return absl::OkStatus();
    return Publish(site_.disk(), site_.directory(), PartialName(report->facts),
                   CheckpointName(report->facts.step));
  }

  void Ended(const SaveReport& report) override {
    if (report.status.ok()) agreed_step_ = report.facts.step;
  }

 private:
  // OK if it is on all ranks.
  absl::Status OnAll(const absl::Status& mine) {
    ASSIGN_OR_RETURN(const bool all, site_.AllOk(mine.ok()));
    RETURN_IF_ERROR(mine);
    return all ? absl::OkStatus() : absl::CancelledError("another rank failed");
  }

  // On the leader of a host: room, and an empty directory. The fence is asked by rank 0 for all.
  absl::Status Prepare(const std::string& partial, const CheckpointFacts& facts) {
    if (site_.rank() == 0 && site_.options().fence) RETURN_IF_ERROR(site_.options().fence());
    if (!site_.leads()) return absl::OkStatus();
    const Disk& disk = site_.disk();
    RETURN_IF_ERROR(RemoveLeftovers(disk, site_.directory(), facts.attempt));
    if (agreed_step_ >= 0) {
      RETURN_IF_ERROR(RemoveOldCheckpoints(disk, site_.directory(), agreed_step_, 1));
    }
    return disk.MakeDirectory(partial);
  }

  absl::StatusOr<Pair> WriteOwn(const std::string& partial, const std::vector<HostPiece>& pieces,
                                SaveReport* report) {
    const int rank = site_.rank(), num_ranks = site_.world().size();
    ASSIGN_OR_RETURN(
        const Manifest part,
        WriteShard(site_.disk(), partial, ShardName(rank, num_ranks), report->facts, pieces));
    report->bytes = part.bytes();
    RETURN_IF_ERROR(WriteRecord(site_.disk(), partial, rank, part));
    return Pair{part.bytes(), static_cast<int64_t>(ManifestText(part).size())};
  }

  // Own copies to the keepers, those of the wards into `partial`.
  absl::Status PassOn(const std::string& partial, const std::vector<Pair>& sizes, int64_t largest) {
    const int num_ranks = site_.world().size();
    const auto shard = MappedFile::Open(partial + "/" + ShardName(site_.rank(), num_ranks));
    const auto record = MappedFile::Open(partial + "/" + RecordName(site_.rank()));
    RETURN_IF_ERROR(OnAll(shard.ok() ? record.status() : shard.status()));
    std::vector<std::unique_ptr<IncomingCopy>> incoming;
    for (const int ward : site_.wards()) {
      incoming.push_back(std::make_unique<IncomingCopy>(site_.disk(), partial, ward, num_ranks,
                                                        sizes[static_cast<size_t>(ward)]));
    }
    for (int64_t round = 0; round * chunk_bytes() < largest; ++round) {
      RETURN_IF_ERROR(PassChunk(round, *shard, *record, incoming));
    }
    absl::Status status;
    for (const auto& copy : incoming) {
      const absl::Status whole = copy->Finish();
      if (status.ok()) status = whole;
    }
    return OnAll(status);
  }

  absl::Status PassChunk(int64_t round, const MappedFile& shard, const MappedFile& record,
                         const std::vector<std::unique_ptr<IncomingCopy>>& incoming) {
    const auto begin = static_cast<size_t>(round * chunk_bytes());
    const size_t end =
        std::min(begin + static_cast<size_t>(chunk_bytes()), shard.size() + record.size());
    outgoing_.clear();
    if (begin < shard.size()) {
      outgoing_.append(shard.bytes().substr(begin, end - begin));
    }
    if (end > shard.size() && begin < end) {
      const size_t from = std::max(begin, shard.size()) - shard.size();
      outgoing_.append(record.bytes().substr(from, end - shard.size() - from));
    }
    std::vector<int64_t> bytes;
    int64_t sum = 0;
    for (const auto& copy : incoming) {
      bytes.push_back(copy->BytesOfRound(round, chunk_bytes()));
      sum += bytes.back();
    }
    received_.resize(static_cast<size_t>(sum));
    RETURN_IF_ERROR(site_.PassOn(outgoing_.data(), static_cast<int64_t>(outgoing_.size()),
                                 received_.data(), bytes));
    const char* next = received_.data();
    for (size_t i = 0; i < incoming.size(); ++i) {
      incoming[i]->Take(next, bytes[i]);
      next += bytes[i];
    }
    return absl::OkStatus();
  }

  int64_t chunk_bytes() const { return site_.options().chunk_bytes; }

  MemorySite& site_;
  int64_t agreed_step_ = -1;         // whose snapshot all hosts have
  std::string outgoing_, received_;  // of one round
};

}  // namespace

std::unique_ptr<CheckpointStore> MakeMemoryStore(MemorySite& site) {
  return std::make_unique<MemoryStore>(site);
}

}  // namespace muster::runtime
