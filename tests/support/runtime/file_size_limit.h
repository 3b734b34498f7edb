#pragma once
// While it lives, no file of this process grows beyond so many bytes: what writes it further fails
// as on a full disk (with EFBIG), also with a part of its bytes.
#include <sys/resource.h>

#include <csignal>
#include <cstdint>

#include "kernels/base/error.h"

namespace muster::runtime {

class FileSizeLimit {
 public:
  explicit FileSizeLimit(uint64_t bytes) {
    signal(SIGXFSZ, SIG_IGN);
    MUSTER_CHECK(getrlimit(RLIMIT_FSIZE, &before_) == 0);
    const rlimit limit{.rlim_cur = bytes, .rlim_max = before_.rlim_max};
    MUSTER_CHECK(setrlimit(RLIMIT_FSIZE, &limit) == 0);
  }
  ~FileSizeLimit() { setrlimit(RLIMIT_FSIZE, &before_); }
  FileSizeLimit(const FileSizeLimit&) = delete;
  FileSizeLimit& operator=(const FileSizeLimit&) = delete;

 private:
  rlimit before_{};
};

}  // namespace muster::runtime
