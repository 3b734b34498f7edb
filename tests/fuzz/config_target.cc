// Job configs: the text, overrides, and every rule.
#include "kernels/base/error.h"
#include "runtime/job/config.h"
#include "tests/fuzz/target.h"

namespace muster::fuzz {

// The first line is an override if it has no space; the rest is the file. A model_file or a
// schedule's file is not followed: the input would choose which of this machine's files is read.
int Config(std::string_view bytes) {
  for (const std::string_view named : {"model_file", "from_file"}) {
    if (bytes.find(named) != std::string_view::npos) return 0;
  }
  const size_t end = bytes.find('\n');
  std::vector<std::string> overrides;
  if (end != std::string_view::npos && bytes.substr(0, end).find(' ') == std::string_view::npos) {
    overrides.emplace_back(bytes.substr(0, end));
    bytes.remove_prefix(end + 1);
  }
  runtime::ResolvedJob job;
  std::vector<runtime::ConfigProblem> problems;
  const bool ok = runtime::LoadJob(FileOf("job.textproto", bytes), overrides, /*world_size=*/8,
                                   &job, &problems);
  MUSTER_CHECK(ok == problems.empty());
  (void)runtime::Describe(problems, "fuzz");
  if (!ok) return 0;
  // What was accepted, resolved, is accepted again.
  runtime::ResolvedJob again;
  const std::string path = FileOf("config.textproto", job.text);
  MUSTER_CHECK(runtime::LoadResolvedJob(path.substr(0, path.rfind('/')), &again, &problems))
      << runtime::Describe(problems, path);
  MUSTER_CHECK(again.hash == job.hash);
  return 0;
}

}  // namespace muster::fuzz
