#pragma once
// What this host has that matters to training: processor, memory, MPI, Slurm, CUDA, space. Reads
// /proc and /sys; asks MPI in a child process. `muster doctor` prints it.
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace muster::launch {

struct Space {
  std::string path;
  int64_t total_bytes = 0, free_bytes = 0;  // free: for this user
};

struct HostFacts {
  std::string host, cpu_model;
  std::vector<std::string> instruction_sets;  // of the ones kernels may use: "avx2", "avx512f", ...
  int logical_cpus = 0, usable_cpus = 0;      // usable: affinity and cgroup quota, rounded up
  int numa_nodes = 1;
  int64_t memory_bytes = 0;        // of the host
  int64_t memory_limit_bytes = 0;  // of this process' cgroup; 0: none
  std::string mpi_library;         // "Open MPI v4.1.4, ..."
  std::string mpi_thread_level;    // "MPI_THREAD_MULTIPLE"; empty if MPI did not start
  std::string mpirun_path, srun_path, sbatch_path, nvcc_path;  // empty: not on the PATH
  std::string stack_tool_path;  // what saves the stacks of ranks that hang; empty: nothing does
  std::string slurm_job_id;
  bool built_with_cuda = false;
  std::string cudnn_version;  // that attention runs on; empty: not in this build
  int cuda_devices = 0;
  std::string nvidia_driver;  // empty: none
  Space shared_memory, working_directory;
  int64_t open_files_limit = 0;     // soft
  int64_t locked_memory_limit = 0;  // bytes, soft; -1: unlimited
};

HostFacts ReadHostFacts();
// CPUs that this process may use: affinity and cgroup quota, rounded up. Quick.
int UsableCpus();

// --- the parsers, pure
// ---------------------------------------------------------------------------- First value of "key
// : value" in a text like /proc/cpuinfo or /proc/meminfo; empty if absent.
std::string ValueOf(std::string_view text, std::string_view key);
// Bytes of a /proc/meminfo line ("MemTotal: 16311080 kB"); 0 if absent.
int64_t MeminfoBytes(std::string_view text, std::string_view key);
// The names of kInstructionSets that stand in cpuinfo's flags.
std::vector<std::string> InstructionSetsOf(std::string_view cpuinfo);
// CPUs that a cgroup v2 cpu.max ("200000 100000", "max 100000") grants; 0: no limit.
int CpusOfQuota(std::string_view cpu_max);
// The first directory of a PATH that holds an executable of this name, with the name; or empty.
std::string FindOnPath(std::string_view path, const std::string& name);
// eu-stack or gdb, the first of them that is on the PATH; or empty.
std::string FindStackTool(std::string_view path);

}  // namespace muster::launch
