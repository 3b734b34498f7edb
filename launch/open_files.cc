#include "launch/open_files.h"

#include <sys/resource.h>

#include <algorithm>
#include <cerrno>
#include <cstring>

#include "absl/strings/str_cat.h"

namespace muster::launch {
namespace {

constexpr rlim_t kBesideRanks = 128;  // strangers' sockets, ledgers, logs, libraries

}  // namespace

absl::Status AllowOpenFilesFor(int num_ranks) {
  const rlim_t wanted = static_cast<rlim_t>(num_ranks) + kBesideRanks;
  rlimit limit{};
  if (getrlimit(RLIMIT_NOFILE, &limit) != 0) {
    return absl::UnavailableError(
        absl::StrCat("cannot read the limit of open files: ", std::strerror(errno)));
  }
  if (limit.rlim_cur >= wanted) return absl::OkStatus();
  limit.rlim_cur = std::min(wanted, limit.rlim_max);
  if (limit.rlim_cur == wanted && setrlimit(RLIMIT_NOFILE, &limit) == 0) return absl::OkStatus();
  return absl::FailedPreconditionError(absl::StrCat(
      "a supervisor of ", num_ranks, " ranks needs ", wanted, " open files, and this host allows ",
      limit.rlim_max, " a process; raise the hard limit (ulimit -Hn) or use fewer ranks"));
}

}  // namespace muster::launch
