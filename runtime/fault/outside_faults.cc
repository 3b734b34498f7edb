#include "runtime/fault/outside_faults.h"

#include <signal.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "kernels/base/error.h"
#include "runtime/checkpoint/format.h"
#include "runtime/checkpoint/retention.h"

namespace muster::runtime {
namespace {

// 0: it has none, or cannot be seen.
pid_t ParentOf(pid_t process) {
  std::ifstream file(absl::StrCat("/proc/", process, "/stat"));
  std::string text;
  std::getline(file, text);
  // "pid (name) state parent ...", where a name may have blanks and parentheses.
  const size_t end = text.rfind(')');
  if (end == std::string::npos) return 0;
  const std::vector<std::string> words =
      absl::StrSplit(text.substr(end + 1), ' ', absl::SkipEmpty());
  pid_t parent = 0;
  return words.size() > 1 && absl::SimpleAtoi(words[1], &parent) ? parent : 0;
}

std::string ProgramOf(pid_t process) {
  std::error_code error;
  return std::filesystem::read_symlink(absl::StrCat("/proc/", process, "/exe"), error).string();
}

absl::Status Errno(const std::string& what) {
  return absl::UnavailableError(absl::StrCat("planned fault: ", what, ": ", std::strerror(errno)));
}

absl::Status FlipMiddleBit(const std::string& path, int64_t bytes) {
  std::fstream file(path, std::ios::in | std::ios::out | std::ios::binary);
  file.seekg(bytes / 2);
  const int byte = file.get();
  file.seekp(bytes / 2);
  file.put(static_cast<char>(byte ^ 1));
  file.flush();
  return file.good() ? absl::OkStatus() : Errno(path);
}

}  // namespace

absl::Status KillSupervisor() {
  const std::string program = ProgramOf(getpid());
  for (pid_t above = getppid(); above > 1; above = ParentOf(above)) {
    if (program.empty() || ProgramOf(above) != program) continue;
    return kill(above, SIGKILL) == 0 ? absl::OkStatus() : Errno("kill");
  }
  return absl::FailedPreconditionError(
      "planned fault supervisor: no process above this rank runs " + program +
      "; start the job with `muster launch`, with this rank on the supervisor's host");
}

bool HasCheckpoint(const std::string& checkpoints) {
  const absl::StatusOr<std::vector<int64_t>> steps = ListCheckpoints(checkpoints);
  return steps.ok() && !steps->empty();
}

absl::Status DamageShard(const std::string& checkpoints, const std::string& shard, Damage how) {
  ASSIGN_OR_RETURN(const std::vector<int64_t> steps, ListCheckpoints(checkpoints));
  if (steps.empty()) {
    return absl::FailedPreconditionError("planned fault damage: no checkpoint in " + checkpoints);
  }
  const std::string path = checkpoints + "/" + CheckpointName(steps.front()) + "/" + shard;
  std::error_code error;
  const auto bytes = static_cast<int64_t>(std::filesystem::file_size(path, error));
  if (!error && how == Damage::kFlip) return FlipMiddleBit(path, bytes);
  if (!error && how == Damage::kTruncate) {
    std::filesystem::resize_file(path, static_cast<uintmax_t>(bytes / 2), error);
  } else if (!error) {
    std::filesystem::remove(path, error);
  }
  if (!error) return absl::OkStatus();
  return absl::UnavailableError(
      absl::StrCat("planned fault damage: ", path, ": ", error.message()));
}

}  // namespace muster::runtime
