#include "launch/process_stacks.h"

#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <iterator>

#include "absl/status/statusor.h"
#include "kernels/device/span.h"
#include "launch/host_facts.h"
#include "launch/host_start.h"

namespace muster::launch {
namespace {

// The shell opens the file, its $0; the tool takes the shell's place.
constexpr const char* kRunIntoFile = "exec \"$@\" > \"$0\" 2>&1";

std::vector<std::string> ToolOf(const std::string& name, pid_t pid) {
  const std::string number = std::to_string(pid);
  if (name == "eu-stack") return {name, "-p", number};
  return {name,
          "-nx",
          "-batch",
          "-iex",
          "set debuginfod enabled off",
          "-p",
          number,
          "-ex",
          "thread apply all bt"};
}

std::string FindTool() {
  const char* path = std::getenv("PATH");
  if (path == nullptr) return "";
  return std::filesystem::path(FindStackTool(path)).filename().string();
}

}  // namespace

char StateOfProcess(pid_t pid) {
  std::ifstream file("/proc/" + std::to_string(pid) + "/stat");
  const std::string text((std::istreambuf_iterator<char>(file)), std::istreambuf_iterator<char>());
  const size_t name_end = text.rfind(')');  // a name may hold anything
  return name_end != std::string::npos && name_end + 2 < text.size() ? text[name_end + 2] : '\0';
}

std::string SaveStacks(const std::vector<StackFile>& wanted, int limit_ms) {
  const std::string tool = FindTool();
  if (tool.empty()) return tool;
  std::vector<pid_t> running;
  for (const StackFile& file : wanted) {
    std::vector<std::string> words = {"sh", "-c", kRunIntoFile, file.path};
    for (std::string& word : ToolOf(tool, file.pid)) words.push_back(std::move(word));
    const absl::StatusOr<pid_t> started = StartProcess(words, {});
    if (started.ok()) running.push_back(*started);
  }
  const int64_t end = kernels::MonotonicNs() + limit_ms * int64_t{1'000'000};
  while (!running.empty()) {
    std::erase_if(running, [](pid_t pid) { return waitpid(pid, nullptr, WNOHANG) != 0; });
    if (kernels::MonotonicNs() > end) break;
    usleep(5'000);
  }
  for (const pid_t pid : running) {
    kill(-pid, SIGKILL);
    waitpid(pid, nullptr, 0);
  }
  return tool;
}

}  // namespace muster::launch
