// Runs every target over its corpus: muster_fuzz_replay CORPUS. It fails as the parser fails (a
// crash, a sanitizer's report), or if a target has no corpus.
#include <cstdio>
#include <filesystem>
#include <fstream>
#include <sstream>

#include "tests/fuzz/target.h"

int main(int argc, char** argv) {
  if (argc != 2) {
    std::fprintf(stderr, "usage: muster_fuzz_replay CORPUS\n");
    return 2;
  }
  for (const muster::fuzz::Target& target : muster::fuzz::kTargets) {
    const std::filesystem::path directory = std::filesystem::path(argv[1]) / target.name;
    int files = 0;
    if (std::filesystem::is_directory(directory)) {
      for (const auto& entry : std::filesystem::directory_iterator(directory)) {
        std::ostringstream bytes;
        bytes << std::ifstream(entry.path(), std::ios::binary).rdbuf();
        target.run(bytes.str());
        ++files;
      }
    }
    std::printf("%-18s %d inputs\n", target.name, files);
    if (files == 0) {
      std::fprintf(stderr, "no corpus in %s\n", directory.c_str());
      return 1;
    }
  }
  return 0;
}
