#include "runtime/checkpoint/memory_site.h"

#include <fcntl.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <filesystem>
#include <fstream>
#include <numeric>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "kernels/base/error.h"
#include "kernels/base/hash.h"
#include "parallel/comm/collectives.h"
#include "runtime/checkpoint/agreement.h"
#include "runtime/checkpoint/retention.h"
#include "runtime/job/atomic_file.h"
#include "runtime/job/file_error.h"

namespace muster::runtime {
namespace {

namespace fs = std::filesystem;
using kernels::DType;
using kernels::TensorView;

constexpr size_t kKeyDigits = 32;

std::string KeyPath(const std::string& run_directory) { return run_directory + "/memory.key"; }

bool IsKey(const std::string& text) {
  return text.size() == kKeyDigits && std::all_of(text.begin(), text.end(), [](char c) {
           return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'f');
         });
}

// On rank 0.
absl::StatusOr<std::string> ReadOrDrawKey(const std::string& run_directory) {
  std::string key;
  std::getline(std::ifstream(KeyPath(run_directory)), key);
  if (IsKey(key)) return key;
  std::array<uint64_t, 2> bits{};
  if (getrandom(bits.data(), sizeof(bits), 0) != static_cast<ssize_t>(sizeof(bits))) {
    return FileError("draw a key for the memory tier", errno);
  }
  key = kernels::HexDigits(bits[0]) + kernels::HexDigits(bits[1]);
  MUSTER_CHECK(IsKey(key)) << key.size();
  RETURN_IF_ERROR(WriteFileAtomically(KeyPath(run_directory), key + "\n"));
  return key;
}

// A host's name as one of a directory.
std::string Basename(std::string name) {
  for (char& c : name) {
    if (!(std::isalnum(static_cast<unsigned char>(c)) || c == '-' || c == '.')) c = '_';
  }
  return "host-" + name.substr(0, 100);
}

// Makes a directory that only this user can enter, or finds that it is one.
absl::Status MakeOwn(const std::string& path) {
  if (mkdir(path.c_str(), 0700) != 0 && errno != EEXIST) return FileError("make " + path, errno);
  const int fd = open(path.c_str(), O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
  if (fd < 0) return FileError("open " + path, errno);
  struct stat facts {};
  const bool known = fstat(fd, &facts) == 0;
  close(fd);
  if (!known || facts.st_uid != geteuid() || (facts.st_mode & 077) != 0) {
    return absl::PermissionDeniedError(
        path + ": wanted a directory of this user that nobody else may enter; remove it");
  }
  return absl::OkStatus();
}

// What the files in a directory and those below take.
int64_t BytesIn(const std::string& directory) {
  int64_t bytes = 0;
  std::error_code error;
  for (fs::recursive_directory_iterator entry(directory, error), end; !error && entry != end;
       entry.increment(error)) {
    std::error_code gone;
    if (entry->is_regular_file(gone)) bytes += static_cast<int64_t>(entry->file_size(gone));
  }
  return bytes;
}

}  // namespace

absl::StatusOr<std::unique_ptr<MemorySite>> MemorySite::Open(const MemorySiteOptions& options,
                                                             parallel::World& world) {
  std::unique_ptr<MemorySite> site(new MemorySite(options, world));
  std::string name = world.host();
  if (options.test_hosts > 0) {
    absl::StrAppend(&name, "-test", world.rank() * options.test_hosts / world.size());
  }
  absl::StatusOr<std::string> key = std::string();
  if (world.rank() == 0) key = ReadOrDrawKey(options.run_directory);
  ASSIGN_OR_RETURN(const absl::Status drawn, Agree(key.status(), world));
  RETURN_IF_ERROR(drawn);
  ASSIGN_OR_RETURN(const std::vector<std::string> keys, world.GatherText(*key));
  ASSIGN_OR_RETURN(const std::vector<std::string> names, world.GatherText(Basename(name)));
  site->hosts_ = MapHosts(names);
  const std::vector<int> keepers = KeepersOf(site->hosts_);
  site->keeper_ = keepers[static_cast<size_t>(world.rank())];
  site->wards_ = WardsOf(keepers, world.rank());
  ASSIGN_OR_RETURN(const absl::Status made, Agree(site->MakeDirectories(keys.front()), world));
  RETURN_IF_ERROR(made);
  ASSIGN_OR_RETURN(kernels::Stream stream,
                   kernels::Stream::Create({}, kernels::StreamMode::kInline, "memory tier"));
  site->stream_ = std::make_unique<kernels::Stream>(std::move(stream));
  std::vector<int> all(static_cast<size_t>(world.size()));
  std::iota(all.begin(), all.end(), 0);
  ASSIGN_OR_RETURN(site->everyone_,
                   world.NewGroup("memory tier", std::move(all), parallel::kCheckpoint, {}));
  return site;
}

absl::Status MemorySite::MakeDirectories(const std::string& key) {
  top_ = options_.root + "/muster-" + key;
  directory_ = top_ + "/" + hosts_.names[static_cast<size_t>(host())];
  if (!leads()) return absl::OkStatus();
  const absl::Status made = MakeOwn(top_);
  if (!made.ok()) return kernels::Annotate(made, "checkpoint.memory_directory " + options_.root);
  RETURN_IF_ERROR(MakeOwn(directory_));
  // From here on a save of an earlier attempt can no longer become visible.
  return RemoveLeftovers(disk_, directory_, options_.attempt);
}

TensorView MemorySite::Bytes(const char* data, int64_t bytes) const {
  return {const_cast<char*>(data), DType::kUInt8, {bytes}};
}

absl::StatusOr<bool> MemorySite::AllOk(bool mine) {
  int32_t failed = mine ? 0 : 1;
  const kernels::StreamView stream = stream_->view();
  RETURN_IF_ERROR(parallel::AllReduce({&failed, DType::kInt32, {1}}, parallel::ReduceOp::kMax,
                                      *everyone_, stream));
  RETURN_IF_ERROR(stream.Synchronize());
  return failed == 0;
}

absl::StatusOr<std::vector<MemorySite::Pair>> MemorySite::Gather(Pair mine) {
  std::vector<Pair> all(static_cast<size_t>(world_.size()));
  const kernels::StreamView stream = stream_->view();
  RETURN_IF_ERROR(parallel::AllGather(
      {mine.data(), DType::kInt64, {2}},
      {all.data(), DType::kInt64, {2 * static_cast<int64_t>(all.size())}}, *everyone_, stream));
  RETURN_IF_ERROR(stream.Synchronize());
  return all;
}

absl::Status MemorySite::Broadcast(char* data, int64_t bytes, int root) {
  const kernels::StreamView stream = stream_->view();
  RETURN_IF_ERROR(parallel::Broadcast(Bytes(data, bytes), root, *everyone_, stream));
  return stream.Synchronize();
}

absl::Status MemorySite::PassOn(const char* in, int64_t in_bytes, char* out,
                                const std::vector<int64_t>& ward_bytes) {
  const int64_t n = world_.size();
  std::vector<int64_t> send(static_cast<size_t>(n)), receive(static_cast<size_t>(n));
  send[static_cast<size_t>(keeper_)] = in_bytes;
  for (size_t i = 0; i < wards_.size(); ++i) {
    receive[static_cast<size_t>(wards_[i])] = ward_bytes[i];
  }
  const int64_t out_bytes = std::accumulate(ward_bytes.begin(), ward_bytes.end(), int64_t{0});
  const kernels::StreamView stream = stream_->view();
  RETURN_IF_ERROR(parallel::AllToAll(Bytes(in, in_bytes), Bytes(out, out_bytes),
                                     {send.data(), DType::kInt64, {n}},
                                     {receive.data(), DType::kInt64, {n}}, *everyone_, stream));
  return stream.Synchronize();
}

absl::StatusOr<int64_t> MemorySite::FreeBytes() const {
  struct statvfs facts {};
  if (statvfs(directory_.c_str(), &facts) != 0) return FileError("ask " + directory_, errno);
  return static_cast<int64_t>(facts.f_bavail) * static_cast<int64_t>(facts.f_frsize);
}

absl::Status MemorySite::CheckRoom(int64_t shard_bytes) {
  ASSIGN_OR_RETURN(const std::vector<Pair> sizes, Gather({shard_bytes, 0}));
  const std::vector<int> keepers = KeepersOf(hosts_);
  int64_t needed = 0;
  for (size_t rank = 0; rank < sizes.size(); ++rank) {
    const bool own = hosts_.host_of[rank] == host();
    const bool kept =
        keepers[rank] >= 0 && hosts_.host_of[static_cast<size_t>(keepers[rank])] == host();
    needed += 2 * sizes[rank][0] * ((own ? 1 : 0) + (kept ? 1 : 0));
  }
  const absl::StatusOr<int64_t> room = FreeBytes();
  absl::Status mine = room.status();
  if (room.ok() && needed > *room + BytesIn(directory_)) {
    mine = absl::ResourceExhaustedError(absl::StrFormat(
        "checkpoint.memory_every_steps: %s would keep %.1f MB in %s (two snapshots of its ranks "
        "and of their peers), which has room for %.1f MB; set it to 0, or "
        "checkpoint.memory_directory to a larger file system in memory",
        hosts_.names[static_cast<size_t>(host())], static_cast<double>(needed) * 1e-6,
        options_.root, static_cast<double>(*room + BytesIn(directory_)) * 1e-6));
  }
  ASSIGN_OR_RETURN(const absl::Status agreed, Agree(mine, world_));
  return agreed;
}

absl::Status MemorySite::Remove() {
  std::error_code error;
  if (leads()) fs::remove_all(directory_, error);
  ASSIGN_OR_RETURN(const bool all, AllOk(!error));
  if (leads() && all) fs::remove(top_, error);  // of another host with the same memory: not empty
  if (rank() == 0 && all) fs::remove(KeyPath(options_.run_directory), error);
  if (all) return absl::OkStatus();
  return absl::UnavailableError("some copies in memory could not be removed: " + top_);
}

}  // namespace muster::runtime
