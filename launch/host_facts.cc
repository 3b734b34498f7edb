#include "launch/host_facts.h"

#include <sched.h>
#include <sys/resource.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include <algorithm>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <sstream>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "kernels/device/device.h"
#include "kernels/ops/attention_support.h"
#include "launch/mpi_probe.h"

namespace muster::launch {
namespace {

constexpr const char* kInstructionSets[] = {"avx",         "avx2",        "fma",      "bmi2",
                                            "avx512f",     "avx512_bf16", "amx_bf16", "amx_tile",
                                            "avx512_vnni", "avx512_fp16"};

std::string ReadText(const std::string& path) {
  std::ifstream file(path);
  std::ostringstream text;
  text << file.rdbuf();
  return text.str();
}

std::string Variable(const char* name) {
  const char* value = std::getenv(name);
  return value == nullptr ? "" : value;
}

Space SpaceOf(const std::string& path) {
  Space space{path};
  struct statvfs facts {};
  if (statvfs(path.c_str(), &facts) != 0) return space;
  space.total_bytes = static_cast<int64_t>(facts.f_blocks * facts.f_frsize);
  space.free_bytes = static_cast<int64_t>(facts.f_bavail * facts.f_frsize);
  return space;
}

int NumaNodes() {
  int nodes = 0;
  std::error_code error;
  for (const auto& entry : std::filesystem::directory_iterator("/sys/devices/system/node", error)) {
    const std::string name = entry.path().filename();
    if (absl::StartsWith(name, "node") && absl::ascii_isdigit(name.back())) ++nodes;
  }
  return std::max(nodes, 1);
}

int64_t SoftLimit(__rlimit_resource resource) {
  rlimit limit{};
  getrlimit(resource, &limit);
  return limit.rlim_cur == RLIM_INFINITY ? -1 : static_cast<int64_t>(limit.rlim_cur);
}

}  // namespace

std::string ValueOf(std::string_view text, std::string_view key) {
  for (absl::string_view line : absl::StrSplit(absl::string_view(text.data(), text.size()), '\n')) {
    const size_t colon = line.find(':');
    if (colon == absl::string_view::npos) continue;
    if (absl::StripAsciiWhitespace(line.substr(0, colon)) !=
        absl::string_view(key.data(), key.size())) {
      continue;
    }
    return std::string(absl::StripAsciiWhitespace(line.substr(colon + 1)));
  }
  return "";
}

int64_t MeminfoBytes(std::string_view text, std::string_view key) {
  const std::string value = ValueOf(text, key);
  int64_t kibibytes = 0;
  if (!absl::SimpleAtoi(value.substr(0, value.find(' ')), &kibibytes)) return 0;
  return kibibytes * 1024;
}

std::vector<std::string> InstructionSetsOf(std::string_view cpuinfo) {
  const std::vector<std::string> flags = absl::StrSplit(ValueOf(cpuinfo, "flags"), ' ');
  std::vector<std::string> found;
  for (const char* name : kInstructionSets) {
    if (std::find(flags.begin(), flags.end(), name) != flags.end()) found.push_back(name);
  }
  return found;
}

int CpusOfQuota(std::string_view cpu_max) {
  const std::vector<std::string> words = absl::StrSplit(
      absl::string_view(cpu_max.data(), cpu_max.size()), absl::ByAnyChar(" \n"), absl::SkipEmpty());
  int64_t quota_us = 0, period_us = 0;
  if (words.size() != 2 || !absl::SimpleAtoi(words[0], &quota_us) ||
      !absl::SimpleAtoi(words[1], &period_us) || period_us <= 0) {
    return 0;
  }
  return static_cast<int>((quota_us + period_us - 1) / period_us);
}

std::string FindOnPath(std::string_view path, const std::string& name) {
  for (absl::string_view directory :
       absl::StrSplit(absl::string_view(path.data(), path.size()), ':', absl::SkipEmpty())) {
    const std::string candidate = absl::StrCat(directory, "/", name);
    std::error_code error;
    if (std::filesystem::is_regular_file(candidate, error) && access(candidate.c_str(), X_OK) == 0)
      return candidate;
  }
  return "";
}

std::string FindStackTool(std::string_view path) {
  const std::string found = FindOnPath(path, "eu-stack");
  return found.empty() ? FindOnPath(path, "gdb") : found;
}

int UsableCpus() {
  cpu_set_t set;
  int usable = sched_getaffinity(0, sizeof(set), &set) == 0 ? CPU_COUNT(&set) : 1;
  const int quota = CpusOfQuota(ReadText("/sys/fs/cgroup/cpu.max"));
  return quota > 0 ? std::min(usable, quota) : usable;
}

HostFacts ReadHostFacts() {
  HostFacts facts;
  char host[256] = {};
  if (gethostname(host, sizeof(host) - 1) == 0) facts.host = host;
  const std::string cpuinfo = ReadText("/proc/cpuinfo");
  facts.cpu_model = ValueOf(cpuinfo, "model name");
  facts.instruction_sets = InstructionSetsOf(cpuinfo);
  facts.logical_cpus = static_cast<int>(sysconf(_SC_NPROCESSORS_ONLN));
  facts.usable_cpus = UsableCpus();
  facts.numa_nodes = NumaNodes();
  facts.memory_bytes = MeminfoBytes(ReadText("/proc/meminfo"), "MemTotal");
  if (!absl::SimpleAtoi(ReadText("/sys/fs/cgroup/memory.max"), &facts.memory_limit_bytes)) {
    facts.memory_limit_bytes = 0;
  }
  const MpiFacts mpi = ProbeMpi();
  facts.mpi_library = mpi.library;
  facts.mpi_thread_level = mpi.thread_level;
  const std::string path = Variable("PATH");
  facts.mpirun_path = FindOnPath(path, "mpirun");
  facts.srun_path = FindOnPath(path, "srun");
  facts.sbatch_path = FindOnPath(path, "sbatch");
  facts.stack_tool_path = FindStackTool(path);
  facts.nvcc_path = FindOnPath(path + ":/usr/local/cuda/bin", "nvcc");
  facts.slurm_job_id = Variable("SLURM_JOB_ID");
  facts.built_with_cuda = kernels::kBuiltWithCuda;
  facts.cudnn_version = kernels::CudnnVersion();
  facts.cuda_devices = kernels::DeviceCount(kernels::DeviceType::kCuda);
  facts.nvidia_driver = ValueOf(ReadText("/proc/driver/nvidia/version"), "NVRM version");
  facts.shared_memory = SpaceOf("/dev/shm");
  std::error_code error;
  facts.working_directory = SpaceOf(std::filesystem::current_path(error));
  facts.open_files_limit = SoftLimit(RLIMIT_NOFILE);
  facts.locked_memory_limit = SoftLimit(RLIMIT_MEMLOCK);
  return facts;
}

}  // namespace muster::launch
