#include "kernels/ops/cuda/matmul_cache.h"

#include <cublasLt.h>
#include <fcntl.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <sstream>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_replace.h"
#include "kernels/base/log.h"

namespace muster::kernels::cuda {
namespace {

constexpr size_t kWords = std::size(MatmulAlgorithm{}.data);

}  // namespace

std::string MatmulCachePath(const char* cache, const char* xdg, const char* home) {
  const auto given = [](const char* text) { return text != nullptr && *text != '\0'; };
  if (cache != nullptr) return cache;
  if (given(xdg)) return absl::StrCat(xdg, "/muster/matmul_algorithms");
  if (given(home)) return absl::StrCat(home, "/.cache/muster/matmul_algorithms");
  return "";
}

MatmulCacheFile::MatmulCacheFile(std::string path, const std::string& device_name)
    : path_(std::move(path)),
      prefix_(absl::StrCat(absl::StrReplaceAll(device_name, {{" ", "_"}}), " cublaslt-",
                           cublasLtGetVersion(), " ")) {
  Read();
}

void MatmulCacheFile::Read() {
  if (path_.empty()) return;
  std::ifstream file(path_);
  for (std::string line; std::getline(file, line);) {
    if (line.rfind(prefix_, 0) != 0) continue;  // another device or version
    std::istringstream words(line.substr(prefix_.size()));
    std::string key;
    MatmulAlgorithm algorithm;
    words >> key >> std::hex;
    for (uint64_t& word : algorithm.data) words >> word;
    if (words.fail()) {
      Log(Severity::kWarning, path_ + ": cannot read the line for " + key + "; it is skipped");
    } else {
      algorithms_.emplace(key, algorithm);
    }
  }
}

std::optional<MatmulAlgorithm> MatmulCacheFile::Find(const MatmulKey& key) const {
  const auto found = algorithms_.find(key.ToString());
  if (found == algorithms_.end()) return std::nullopt;
  return found->second;
}

MatmulAlgorithm MatmulCacheFile::Add(const MatmulKey& key, const MatmulAlgorithm& algorithm) {
  if (path_.empty()) return algorithm;
  std::string line = prefix_ + key.ToString();
  for (size_t i = 0; i < kWords; ++i) absl::StrAppend(&line, " ", absl::Hex(algorithm.data[i]));
  line += "\n";
  std::error_code error;  // if there is no directory, opening says so
  std::filesystem::create_directories(std::filesystem::path(path_).parent_path(), error);
  const int file = open(path_.c_str(), O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0644);
  const bool written =
      file >= 0 && write(file, line.data(), line.size()) == static_cast<ssize_t>(line.size());
  if (!written) {
    Log(Severity::kWarning, "cannot add to the matmul cache " + path_ + ": " + strerror(errno));
  }
  if (file >= 0) close(file);
  Read();
  return Find(key).value_or(algorithm);
}

}  // namespace muster::kernels::cuda
