#include "launch/host_advice.h"

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"

namespace muster::launch {
namespace {

using Level = Finding::Level;
constexpr int64_t kGibibyte = int64_t{1} << 30;

std::string Gibibytes(int64_t bytes) {
  return absl::StrFormat("%.1f GiB", static_cast<double>(bytes) / kGibibyte);
}

Finding Processor(const HostFacts& facts) {
  const auto has = [&](const char* name) {
    return std::find(facts.instruction_sets.begin(), facts.instruction_sets.end(), name) !=
           facts.instruction_sets.end();
  };
  const std::string found = absl::StrCat(
      facts.cpu_model.empty() ? "unknown model" : facts.cpu_model, "; ", facts.usable_cpus, " of ",
      facts.logical_cpus, " CPUs usable, ", facts.numa_nodes, " NUMA node",
      facts.numa_nodes == 1 ? "" : "s", "; ", absl::StrJoin(facts.instruction_sets, " "));
  if (has("avx2") && has("fma") && has("bmi2")) return {Level::kOk, "processor", found, ""};
  return {Level::kMissing, "processor", found,
          "the CPU operators are compiled for x86-64-v3 (AVX2, FMA, BMI2); rebuild with "
          "cmake --preset cpu -DMUSTER_CPU_ARCH=native"};
}

Finding Memory(const HostFacts& facts) {
  std::string found = Gibibytes(facts.memory_bytes);
  int64_t usable = facts.memory_bytes;
  if (facts.memory_limit_bytes > 0) {
    absl::StrAppend(&found, ", limited to ", Gibibytes(facts.memory_limit_bytes), " by the cgroup");
    usable = std::min(usable, facts.memory_limit_bytes);
  }
  if (usable >= 2 * kGibibyte) return {Level::kOk, "memory", found, ""};
  return {Level::kNote, "memory", found, "enough for tiny models only"};
}

Finding Mpi(const HostFacts& facts) {
  if (facts.mpi_thread_level.empty()) {
    return {Level::kMissing, "MPI", facts.mpi_library + "; does not start",
            "run 'ompi_info' to see why; Debian: apt-get install openmpi-bin"};
  }
  const std::string found = absl::StrCat(facts.mpi_library, "; ", facts.mpi_thread_level);
  if (facts.mpi_thread_level == "MPI_THREAD_MULTIPLE") return {Level::kOk, "MPI", found, ""};
  return {Level::kMissing, "MPI", found,
          "a communication thread needs MPI_THREAD_MULTIPLE: install an MPI built with it"};
}

Finding Mpirun(const HostFacts& facts) {
  if (!facts.mpirun_path.empty()) return {Level::kOk, "mpirun", facts.mpirun_path, ""};
  if (!facts.srun_path.empty()) {
    return {Level::kNote, "mpirun", "not on the PATH", "start ranks with srun --mpi=pmix"};
  }
  return {Level::kMissing, "mpirun", "not on the PATH", "apt-get install openmpi-bin"};
}

Finding Stacks(const HostFacts& facts) {
  if (!facts.stack_tool_path.empty()) return {Level::kOk, "stacks", facts.stack_tool_path, ""};
  return {Level::kNote, "stacks", "neither eu-stack nor gdb is on the PATH",
          "muster launch saves the stacks of ranks that hang by one of them: apt-get install "
          "elfutils"};
}

Finding Slurm(const HostFacts& facts) {
  if (facts.srun_path.empty() || facts.sbatch_path.empty()) {
    return {Level::kNote, "Slurm", "srun and sbatch are not on the PATH",
            "needed only to run under Slurm: apt-get install slurm-client"};
  }
  return {Level::kOk, "Slurm",
          facts.slurm_job_id.empty() ? facts.srun_path
                                     : facts.srun_path + ", in job " + facts.slurm_job_id,
          ""};
}

Finding Cuda(const HostFacts& facts) {
  const std::string driver =
      facts.nvidia_driver.empty() ? "no NVIDIA driver" : "driver " + facts.nvidia_driver;
  const std::string toolkit =
      facts.nvcc_path.empty() ? "no CUDA toolkit" : "toolkit " + facts.nvcc_path;
  if (!facts.built_with_cuda) {
    return {
        Level::kNote, "CUDA", absl::StrCat("this build has no CUDA; ", driver, ", ", toolkit),
        facts.nvidia_driver.empty() ? "not needed on the CPU" : "build for it: cmake --preset gpu"};
  }
  const std::string found =
      absl::StrCat(facts.cuda_devices, " device", facts.cuda_devices == 1 ? "" : "s", "; ", driver);
  if (facts.cuda_devices > 0) return {Level::kOk, "CUDA", found, ""};
  return {Level::kNote, "CUDA", found,
          facts.nvidia_driver.empty() ? "install the NVIDIA driver, or train on the CPU"
                                      : "CUDA_VISIBLE_DEVICES may hide them"};
}

// Empty on a build without CUDA.
std::vector<Finding> FusedAttention(const HostFacts& facts) {
  if (!facts.built_with_cuda) return {};
  if (!facts.cudnn_version.empty()) {
    return {{Level::kOk, "cuDNN", facts.cudnn_version + ", for attention in bf16", ""}};
  }
  return {{Level::kNote, "cuDNN", "this build has none: jobs in bf16 on GPUs do not start",
           "launch/fetch_cudnn_frontend, then build again; or precision.attention_kernel=DIRECT, "
           "which is some hundred times slower"}};
}

Finding SharedMemory(const HostFacts& facts) {
  const Space& space = facts.shared_memory;
  const std::string found = absl::StrCat(Gibibytes(space.free_bytes), " free of ",
                                         Gibibytes(space.total_bytes), " in ", space.path);
  // Open MPI's shared-memory transport takes some megabytes a rank.
  if (space.free_bytes >= kGibibyte / 4) return {Level::kOk, "shared memory", found, ""};
  return {Level::kNote, "shared memory", found,
          "ranks of one host talk through it: enlarge it (docker run --shm-size=1g), or let MPI "
          "use TCP: mpirun --mca btl self,tcp"};
}

Finding Disk(const HostFacts& facts) {
  const Space& space = facts.working_directory;
  const std::string found = absl::StrCat(Gibibytes(space.free_bytes), " free of ",
                                         Gibibytes(space.total_bytes), " at ", space.path);
  if (space.free_bytes >= 2 * kGibibyte) return {Level::kOk, "disk", found, ""};
  return {Level::kNote, "disk", found, "runs keep their files here unless --run says otherwise"};
}

Finding Limits(const HostFacts& facts) {
  const auto text = [](int64_t limit) {
    return limit < 0 ? std::string("unlimited") : absl::StrCat(limit);
  };
  const std::string found = absl::StrCat(text(facts.open_files_limit), " open files, ",
                                         text(facts.locked_memory_limit), " bytes locked memory");
  if (facts.open_files_limit < 0 || facts.open_files_limit >= 1024) {
    return {Level::kOk, "limits", found, ""};
  }
  return {Level::kNote, "limits", found, "raise the number of open files: ulimit -n 4096"};
}

}  // namespace

const char* Name(Finding::Level level) {
  switch (level) {
    case Level::kOk:
      return "ok";
    case Level::kNote:
      return "note";
    case Level::kMissing:
      return "missing";
  }
  return "?";
}

std::vector<Finding> Assess(const HostFacts& facts) {
  std::vector<Finding> findings = {Processor(facts), Memory(facts), Mpi(facts), Mpirun(facts),
                                   Stacks(facts),    Slurm(facts),  Cuda(facts)};
  for (const Finding& finding : FusedAttention(facts)) findings.push_back(finding);
  for (const Finding& finding : {SharedMemory(facts), Disk(facts), Limits(facts)}) {
    findings.push_back(finding);
  }
  return findings;
}

}  // namespace muster::launch
