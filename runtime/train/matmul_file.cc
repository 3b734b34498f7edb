#include "runtime/train/matmul_file.h"

#include <cerrno>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <system_error>
#include <vector>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "kernels/base/error.h"
#include "kernels/base/hash.h"
#include "runtime/job/atomic_file.h"

namespace muster::runtime {
namespace {

constexpr char kHeader[] = "muster matmul algorithms 2";
constexpr size_t kMostBytes = size_t{16} << 20;  // some 80,000 lines: more is no file of ours
constexpr size_t kHashDigits = 16;

bool ParseLine(const std::string& line, KeptMatmuls* matmuls) {
  if (line.size() <= kHashDigits || line[kHashDigits] != ' ') return false;
  const std::string rest = line.substr(kHashDigits + 1);
  if (line.substr(0, kHashDigits) != kernels::HexDigits(kernels::Hash64(rest))) return false;
  const std::vector<std::string> words = absl::StrSplit(rest, ' ');
  kernels::MatmulAlgorithm algorithm;
  if (words.size() != 2 + std::size(algorithm.data)) return false;
  for (size_t i = 0; i < std::size(algorithm.data); ++i) {
    if (!absl::SimpleHexAtoi(words[2 + i], &algorithm.data[i])) return false;
  }
  (*matmuls)[{words[0], words[1]}] = algorithm;
  return true;
}

}  // namespace

MatmulFile ParseMatmulFile(const std::string& text) {
  MatmulFile file;
  const std::vector<std::string> lines = absl::StrSplit(text, '\n');
  file.of_our_form = lines.front() == kHeader;
  if (!file.of_our_form) return file;
  for (size_t i = 1; i < lines.size(); ++i) {
    if (!lines[i].empty() && !ParseLine(lines[i], &file.matmuls)) ++file.damaged_lines;
  }
  return file;
}

std::string FormatMatmulFile(const KeptMatmuls& matmuls) {
  std::string text = absl::StrCat(kHeader, "\n");
  for (const auto& [product, algorithm] : matmuls) {
    std::string rest = absl::StrCat(product.first, " ", product.second);
    for (const uint64_t word : algorithm.data) absl::StrAppend(&rest, " ", absl::Hex(word));
    absl::StrAppend(&text, kernels::HexDigits(kernels::Hash64(rest)), " ", rest, "\n");
  }
  return text;
}

absl::StatusOr<MatmulFile> ReadMatmulFile(const std::string& path) {
  std::error_code error;
  if (!std::filesystem::exists(path, error) && !error) return MatmulFile();
  std::ifstream stream(path, std::ios::binary);
  if (!stream) {
    return absl::UnavailableError(absl::StrCat("cannot read ", path, ": ", std::strerror(errno)));
  }
  std::string text(kMostBytes + 1, '\0');
  stream.read(text.data(), static_cast<std::streamsize>(text.size()));
  if (stream.bad()) return absl::UnavailableError("reading " + path + " failed");
  text.resize(static_cast<size_t>(stream.gcount()));
  if (text.empty()) return MatmulFile();
  if (text.size() > kMostBytes) return MatmulFile{.of_our_form = false};
  return ParseMatmulFile(text);
}

absl::Status AddToMatmulFile(const std::string& path, const KeptMatmuls& matmuls) {
  ASSIGN_OR_RETURN(MatmulFile file, ReadMatmulFile(path));
  if (!file.of_our_form) {
    return absl::FailedPreconditionError(
        absl::StrCat(path, " is not changed: its first line is not \"", kHeader, "\""));
  }
  const KeptMatmuls before = file.matmuls;
  for (const auto& [product, algorithm] : matmuls) file.matmuls[product] = algorithm;
  if (file.matmuls == before && file.damaged_lines == 0) return absl::OkStatus();
  std::error_code ignored;  // if there is no directory, writing says so
  std::filesystem::create_directories(std::filesystem::path(path).parent_path(), ignored);
  return WriteFileAtomically(path, FormatMatmulFile(file.matmuls));
}

std::string UsersMatmulFile(const char* cache, const char* xdg, const char* home) {
  const auto given = [](const char* text) { return text != nullptr && *text != '\0'; };
  if (cache != nullptr) return cache;
  if (given(xdg)) return absl::StrCat(xdg, "/muster/matmul_algorithms.txt");
  if (given(home)) return absl::StrCat(home, "/.cache/muster/matmul_algorithms.txt");
  return "";
}

}  // namespace muster::runtime
