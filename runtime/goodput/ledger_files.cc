#include "runtime/goodput/ledger_files.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <charconv>
#include <cstring>
#include <filesystem>
#include <optional>
#include <system_error>

#include "absl/strings/str_cat.h"

namespace muster::runtime {
namespace {

constexpr int64_t kMaxFileBytes = int64_t{1} << 30;

// "attempt-12" -> 12 for prefix "attempt-"; nullopt if the name is anything else.
std::optional<int> NumberIn(std::string_view name, std::string_view prefix,
                            std::string_view suffix) {
  if (name.size() <= prefix.size() + suffix.size() || !name.starts_with(prefix) ||
      !name.ends_with(suffix)) {
    return std::nullopt;
  }
  name.remove_prefix(prefix.size());
  name.remove_suffix(suffix.size());
  int number = -1;
  const auto [end, error] = std::from_chars(name.data(), name.data() + name.size(), number);
  if (error != std::errc() || end != name.data() + name.size() || number < 0) return std::nullopt;
  return number;
}

}  // namespace

std::map<int, std::string> Numbered(const std::string& directory, std::string_view prefix,
                                    std::string_view suffix) {
  std::map<int, std::string> found;
  std::error_code error;
  for (std::filesystem::directory_iterator it(directory, error), end; !error && it != end;
       it.increment(error)) {
    const std::string name = it->path().filename().string();
    if (const std::optional<int> number = NumberIn(name, prefix, suffix)) {
      found[*number] = it->path().string();
    }
  }
  return found;
}

absl::StatusOr<std::string> ReadRegularFile(const std::string& path) {
  const int file = open(path.c_str(), O_RDONLY | O_NOFOLLOW | O_CLOEXEC | O_NONBLOCK);
  if (file < 0) return absl::NotFoundError(path + ": " + std::strerror(errno));
  struct stat facts {};
  std::string problem;
  if (fstat(file, &facts) != 0 || !S_ISREG(facts.st_mode)) problem = "not a regular file";
  if (facts.st_size > kMaxFileBytes) {
    problem = absl::StrCat(facts.st_size, " bytes, at most ", kMaxFileBytes, " are read");
  }
  std::string bytes(problem.empty() ? static_cast<size_t>(facts.st_size) : 0, '\0');
  size_t used = 0;
  while (problem.empty() && used < bytes.size()) {
    const ssize_t got = read(file, bytes.data() + used, bytes.size() - used);
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) problem = std::strerror(errno);
    if (got <= 0) break;  // 0: it shrank meanwhile
    used += static_cast<size_t>(got);
  }
  close(file);
  if (!problem.empty()) return absl::DataLossError(path + ": " + problem);
  bytes.resize(used);
  return bytes;
}

}  // namespace muster::runtime
