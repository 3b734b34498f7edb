#pragma once
// One log file per rank: from Open on, all that this process writes to stderr goes to
// logs/rank-<r>.log in the run directory as well as to where it went before. The copying is done by
// a child process of a few lines, so that the last words of a rank that aborts or is killed reach
// the file: a thread of the rank would die with them unwritten.
#include <sys/types.h>

#include <memory>
#include <string>

#include "absl/status/statusor.h"

namespace muster::launch {

class RankLog {
 public:
  // Makes the directory, and appends to the log that earlier attempts left. It forks, and the
  // child makes system calls only: threads, MPI and CUDA may be there. Errors: the file cannot be
  // written.
  static absl::StatusOr<std::unique_ptr<RankLog>> Open(const std::string& run_directory, int rank);
  // Gives stderr back, and waits until the file is complete.
  ~RankLog();
  RankLog(const RankLog&) = delete;
  RankLog& operator=(const RankLog&) = delete;

  const std::string& path() const { return path_; }

 private:
  RankLog(std::string path, int stderr_before, pid_t copier)
      : path_(std::move(path)), stderr_before_(stderr_before), copier_(copier) {}
  std::string path_;
  int stderr_before_;
  pid_t copier_;
};

}  // namespace muster::launch
