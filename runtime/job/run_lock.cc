#include "runtime/job/run_lock.h"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <ctime>
#include <filesystem>
#include <fstream>
#include <optional>
#include <thread>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"
#include "kernels/base/error.h"
#include "kernels/base/log.h"
#include "runtime/job/atomic_file.h"

namespace muster::runtime {
namespace {

namespace fs = std::filesystem;

constexpr std::chrono::milliseconds kTryAgain{50};

std::string EpochPath(const std::string& run_directory) { return run_directory + "/epoch"; }

// nullopt: there is none.
absl::StatusOr<std::optional<int>> ReadEpoch(const std::string& run_directory) {
  const std::string path = EpochPath(run_directory);
  std::ifstream file(path);
  std::error_code ignored;
  if (!file && !fs::exists(fs::symlink_status(path, ignored))) return std::optional<int>();
  std::string line;
  int epoch = -1;
  if (!std::getline(file, line) || !absl::SimpleAtoi(line, &epoch) || epoch < 0) {
    return absl::DataLossError(
        absl::StrCat(path, ": wanted the number of the newest attempt, found '", line,
                     "'; if no job runs there, remove the file: the next attempt makes it anew"));
  }
  return std::optional<int>(epoch);
}

// The highest <run>/ledger/attempt-<n>; -1: none.
int NewestLedger(const std::string& run_directory) {
  int newest = -1;
  std::error_code error;
  for (fs::directory_iterator entry(run_directory + "/ledger", error), end; !error && entry != end;
       entry.increment(error)) {
    const std::string name = entry->path().filename().string();
    int number = -1;
    absl::string_view digits = name;
    if (absl::ConsumePrefix(&digits, "attempt-") && absl::SimpleAtoi(digits, &number)) {
      newest = std::max(newest, number);
    }
  }
  return newest;
}

// "node17, process 4711, since 2026-03-01 12:00:00, Slurm job 99"
std::string Signature() {
  char host[256] = "unknown host";
  gethostname(host, sizeof(host) - 1);
  const std::time_t now = std::time(nullptr);
  std::tm local{};
  localtime_r(&now, &local);
  char stamp[32];
  std::strftime(stamp, sizeof(stamp), "%Y-%m-%d %H:%M:%S", &local);
  std::string text = absl::StrCat(host, ", process ", getpid(), ", since ", stamp);
  if (const char* job = std::getenv("SLURM_JOB_ID")) absl::StrAppend(&text, ", Slurm job ", job);
  return text;
}

bool TryLock(int file) {
  struct flock byte {};
  byte.l_type = F_WRLCK;
  byte.l_whence = SEEK_SET;
  byte.l_len = 1;
  return fcntl(file, F_OFD_SETLK, &byte) == 0;
}

std::string Holder(int file) {
  char text[512];
  const ssize_t bytes = pread(file, text, sizeof(text), 0);
  std::string holder(text, static_cast<size_t>(std::max<ssize_t>(bytes, 0)));
  while (!holder.empty() && holder.back() == '\n') holder.pop_back();
  for (char& c : holder) {
    if (c < ' ' || c > '~') c = '?';
  }
  return holder.empty() ? "a job that has not signed yet" : holder;
}

}  // namespace

absl::StatusOr<std::unique_ptr<RunLock>> RunLock::Take(const std::string& run_directory,
                                                       std::chrono::milliseconds patience) {
  const std::string path = run_directory + "/run.lock";
  const int file = open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);
  if (file < 0) {
    return absl::PermissionDeniedError("cannot open " + path + ": " + std::strerror(errno));
  }
  std::unique_ptr<RunLock> lock(new RunLock(run_directory, file));
  const auto deadline = std::chrono::steady_clock::now() + patience;
  while (!TryLock(file)) {
    if (errno != EAGAIN && errno != EACCES && errno != EINTR) {
      kernels::Log(kernels::Severity::kWarning,
                   absl::StrCat("cannot lock ", path, ": ", std::strerror(errno),
                                "; that no other job writes this run is only checked when a "
                                "checkpoint is committed"));
      break;
    }
    if (std::chrono::steady_clock::now() >= deadline) {
      return absl::AbortedError(absl::StrCat(
          run_directory, " is written by another job: ", Holder(file),
          "; wait for it, end it, or choose another --run directory (if that host is gone for "
          "good, remove ",
          path, ")"));
    }
    std::this_thread::sleep_for(kTryAgain);
  }
  lock->Sign(Signature());
  return lock;
}

RunLock::~RunLock() { close(file_); }

// For people: the lock itself does not need it, so a disk that is full does no harm.
void RunLock::Sign(const std::string& text) const {
  const std::string line = text + "\n";
  if (ftruncate(file_, 0) != 0 || pwrite(file_, line.data(), line.size(), 0) < 0) {
    kernels::Log(kernels::Severity::kWarning,
                 "cannot sign " + run_directory_ + "/run.lock: " + std::strerror(errno));
  }
}

absl::StatusOr<int> NextEpoch(const std::string& run_directory) {
  ASSIGN_OR_RETURN(const std::optional<int> epoch, ReadEpoch(run_directory));
  return std::max(epoch.value_or(-1), NewestLedger(run_directory)) + 1;
}

absl::StatusOr<int> RunLock::BeginAttempt(int at_least) {
  ASSIGN_OR_RETURN(const int next, NextEpoch(run_directory_));
  const int attempt = std::max(next, at_least);
  RETURN_IF_ERROR(WriteFileAtomically(EpochPath(run_directory_), absl::StrCat(attempt, "\n")));
  Sign(absl::StrCat(Signature(), ", attempt ", attempt));
  return attempt;
}

absl::Status CheckEpoch(const std::string& run_directory, int attempt) {
  ASSIGN_OR_RETURN(const std::optional<int> epoch, ReadEpoch(run_directory));
  if (!epoch || *epoch <= attempt) return absl::OkStatus();
  return absl::AbortedError(absl::StrCat("attempt ", attempt, " of ", run_directory,
                                         " has been replaced by attempt ", *epoch,
                                         ": it may not save any more and ends"));
}

}  // namespace muster::runtime
