#include "runtime/job/run_lock.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <ctime>
#include <filesystem>
#include <optional>
#include <thread>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"
#include "kernels/base/error.h"
#include "kernels/base/log.h"
#include "runtime/job/atomic_file.h"
#include "runtime/job/file_error.h"

namespace muster::runtime {
namespace {

namespace fs = std::filesystem;

constexpr std::chrono::milliseconds kTryAgain{50};
constexpr absl::string_view kAttempt = ", attempt ", kOfLaunch = " of muster launch ";

std::string EpochPath(const std::string& run_directory) { return run_directory + "/epoch"; }

// What a small file holds, up to 64 bytes.
absl::StatusOr<std::string> ReadStart(const std::string& path) {
  char text[64];
  const int file = open(path.c_str(), O_RDONLY | O_CLOEXEC);
  const ssize_t bytes = file < 0 ? -1 : read(file, text, sizeof(text));
  const int error = errno;
  if (file >= 0) close(file);
  if (bytes >= 0) return std::string(text, static_cast<size_t>(bytes));
  return absl::UnavailableError(
      absl::StrCat("cannot read ", path, ": ", std::strerror(error),
                   "; which attempt is the newest is not known, so this one may not save now"));
}

// nullopt: there is none.
absl::StatusOr<std::optional<int>> ReadEpoch(const std::string& run_directory) {
  const std::string path = EpochPath(run_directory);
  std::error_code unseen;  // reading it will tell
  if (fs::symlink_status(path, unseen).type() == fs::file_type::not_found) {
    return std::optional<int>();
  }
  ASSIGN_OR_RETURN(const std::string text, ReadStart(path));
  int epoch = -1;
  if (!absl::SimpleAtoi(text, &epoch) || epoch < 0) {
    return absl::DataLossError(
        absl::StrCat(path, ": wanted the number of the newest attempt, found '", text,
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

// Of a signature; nullopt: no supervisor has started that job.
std::optional<SupervisedStart> StartOf(absl::string_view signature) {
  SupervisedStart start;
  const size_t attempt = signature.rfind(kAttempt), launch = signature.rfind(kOfLaunch);
  if (attempt == absl::string_view::npos || launch == absl::string_view::npos ||
      attempt + kAttempt.size() > launch ||
      !absl::SimpleAtoi(signature.substr(launch + kOfLaunch.size()), &start.supervisor) ||
      !absl::SimpleAtoi(
          signature.substr(attempt + kAttempt.size(), launch - attempt - kAttempt.size()),
          &start.attempt)) {
    return std::nullopt;
  }
  return start;
}

}  // namespace

absl::StatusOr<std::unique_ptr<RunLock>> RunLock::Take(const std::string& run_directory,
                                                       std::chrono::milliseconds patience,
                                                       std::optional<SupervisedStart> start,
                                                       Of of) {
  std::unique_ptr<RunLock> lock(new RunLock(run_directory, start, of));
  const auto deadline = std::chrono::steady_clock::now() + patience;
  while (true) {
    RETURN_IF_ERROR(lock->Open());
    if (TryLock(lock->file_)) {
      if (lock->IsNamed()) break;
      continue;  // another one has taken over, or somebody has removed it
    }
    if (errno != EAGAIN && errno != EACCES && errno != EINTR) {
      kernels::Log(kernels::Severity::kWarning,
                   absl::StrCat("cannot lock ", lock->path_, ": ", std::strerror(errno),
                                "; that no other job writes this run is only checked when a "
                                "checkpoint is committed"));
      break;
    }
    if (std::chrono::steady_clock::now() >= deadline) {
      const std::string holder = Holder(lock->file_);
      if (lock->IsHeldByAnOrphan()) {
        RETURN_IF_ERROR(lock->TakeOver());
        kernels::Log(kernels::Severity::kWarning,
                     absl::StrCat("takes ", run_directory, " over from what is left of an earlier ",
                                  "attempt (", holder, "), which cannot save any more"));
        break;
      }
      return absl::AbortedError(absl::StrCat(
          run_directory,
          of == Of::kJob ? " is written by another job: " : " has a supervisor already: ", holder,
          "; wait for it, end it, or choose another --run directory (if that host is gone for "
          "good, remove ",
          lock->path_, ")"));
    }
    std::this_thread::sleep_for(kTryAgain);
  }
  lock->Sign(std::nullopt);
  return lock;
}

RunLock::RunLock(const std::string& run_directory, std::optional<SupervisedStart> start, Of of)
    : run_directory_(run_directory),
      path_(run_directory + (of == Of::kJob ? "/run.lock" : "/launch.lock")),
      signature_(Signature()),
      start_(start) {}

RunLock::~RunLock() {
  if (file_ >= 0) close(file_);
}

// The file that has the name now.
absl::Status RunLock::Open() {
  if (file_ >= 0) close(file_);
  file_ = open(path_.c_str(), O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);
  return file_ >= 0 ? absl::OkStatus() : FileError("open " + path_, errno);
}

bool RunLock::IsNamed() const {
  struct stat named {
  }, held{};
  return stat(path_.c_str(), &named) == 0 && fstat(file_, &held) == 0 &&
         named.st_dev == held.st_dev && named.st_ino == held.st_ino;
}

bool RunLock::IsHeldByAnOrphan() const {
  const std::optional<SupervisedStart> holder = StartOf(Holder(file_));
  return start_ && holder && *holder < *start_;
}

// A locked and signed file takes the name in one step, so nobody finds it free in between.
absl::Status RunLock::TakeOver() {
  const std::string mine = absl::StrCat(path_, ".partial-", getpid());
  unlink(mine.c_str());
  close(file_);
  file_ = open(mine.c_str(), O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW, 0600);
  if (file_ >= 0 && TryLock(file_)) {
    Sign(std::nullopt);
    if (rename(mine.c_str(), path_.c_str()) == 0) return absl::OkStatus();
  }
  return FileError("replace " + path_, errno);
}

// For people: the lock itself does not need it, so a disk that is full does no harm. Written over
// and then cut, so that whoever looks meanwhile finds a name.
void RunLock::Sign(std::optional<int> attempt) const {
  std::string line = signature_;
  if (start_) {
    absl::StrAppend(&line, kAttempt, start_->attempt, kOfLaunch, start_->supervisor);
  } else if (attempt) {
    absl::StrAppend(&line, kAttempt, *attempt);
  }
  line += "\n";
  if (pwrite(file_, line.data(), line.size(), 0) < 0 ||
      ftruncate(file_, static_cast<off_t>(line.size())) != 0) {
    kernels::Log(kernels::Severity::kWarning, "cannot sign " + path_ + ": " + std::strerror(errno));
  }
}

absl::StatusOr<int> NextEpoch(const std::string& run_directory) {
  ASSIGN_OR_RETURN(const std::optional<int> epoch, ReadEpoch(run_directory));
  return std::max(epoch.value_or(-1), NewestLedger(run_directory)) + 1;
}

absl::StatusOr<int> RunLock::BeginAttempt() {
  ASSIGN_OR_RETURN(const int next, NextEpoch(run_directory_));
  const int attempt = start_ ? start_->attempt : next;
  if (next > attempt) {
    return absl::AbortedError(absl::StrCat("attempt ", attempt, " of ", run_directory_,
                                           " comes too late: attempt ", next - 1,
                                           " has begun, by another job"));
  }
  RETURN_IF_ERROR(WriteFileAtomically(EpochPath(run_directory_), absl::StrCat(attempt, "\n")));
  Sign(attempt);
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
