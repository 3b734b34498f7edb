#include "launch/process_space.h"

#include <filesystem>
#include <fstream>
#include <string>
#include <system_error>

#include "absl/strings/str_cat.h"
#include "kernels/base/hash.h"

namespace muster::launch {

uint64_t ProcessSpace() {
  std::string boot;
  std::getline(std::ifstream("/proc/sys/kernel/random/boot_id"), boot);
  std::error_code error;
  const std::filesystem::path numbers =
      std::filesystem::read_symlink("/proc/self/ns/pid", error);  // "pid:[4026531836]"
  if (boot.empty() || error) return 0;
  return kernels::Hash64(absl::StrCat(boot, " ", numbers.string()));
}

}  // namespace muster::launch
