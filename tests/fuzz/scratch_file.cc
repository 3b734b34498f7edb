#include <fcntl.h>
#include <unistd.h>

#include "kernels/base/error.h"
#include "tests/fuzz/target.h"

namespace muster::fuzz {
namespace {

// Removes the directory's files at the process' end.
struct Directory {
  Directory() : path("/dev/shm/muster_fuzz_" + std::to_string(getpid())) {
    MUSTER_CHECK(std::system(("mkdir -p " + path).c_str()) == 0);
  }
  ~Directory() { (void)!std::system(("rm -rf " + path).c_str()); }
  const std::string path;
};

}  // namespace

std::string FileOf(const std::string& name, std::string_view bytes) {
  static const Directory directory;
  const std::string path = directory.path + "/" + name;
  const int fd = open(path.c_str(), O_CREAT | O_TRUNC | O_WRONLY | O_CLOEXEC, 0600);
  MUSTER_CHECK(fd >= 0 &&
               write(fd, bytes.data(), bytes.size()) == static_cast<ssize_t>(bytes.size()))
      << path;
  close(fd);
  return path;
}

}  // namespace muster::fuzz
