#include <gtest/gtest.h>

#include <algorithm>

#include "launch/host_advice.h"
#include "launch/host_facts.h"
#include "launch/mpi_probe.h"

namespace muster::launch {
namespace {

using Level = Finding::Level;

TEST(HostFacts, ReadsProcFiles) {
  const std::string cpuinfo =
      "processor\t: 0\nmodel name\t: Some CPU @ 2.00GHz\nflags\t\t: fpu avx avx2 fma bmi2 "
      "avx512f\n\nprocessor\t: 1\nmodel name\t: Other\n";
  EXPECT_EQ(ValueOf(cpuinfo, "model name"), "Some CPU @ 2.00GHz");
  EXPECT_EQ(ValueOf(cpuinfo, "model"), "");
  EXPECT_EQ(InstructionSetsOf(cpuinfo),
            (std::vector<std::string>{"avx", "avx2", "fma", "bmi2", "avx512f"}));
  EXPECT_TRUE(InstructionSetsOf("flags : avx2x\n").empty());
  const std::string meminfo = "MemTotal:       16311080 kB\nMemFree:  12 kB\n";
  EXPECT_EQ(MeminfoBytes(meminfo, "MemTotal"), int64_t{16311080} * 1024);
  EXPECT_EQ(MeminfoBytes(meminfo, "MemGone"), 0);
}

TEST(HostFacts, RoundsACpuQuotaUp) {
  EXPECT_EQ(CpusOfQuota("200000 100000\n"), 2);
  EXPECT_EQ(CpusOfQuota("250000 100000"), 3);
  EXPECT_EQ(CpusOfQuota("max 100000\n"), 0);
  EXPECT_EQ(CpusOfQuota(""), 0);
  EXPECT_EQ(CpusOfQuota("1 0"), 0);
}

TEST(HostFacts, FindsExecutablesOnThePath) {
  EXPECT_EQ(FindOnPath("/nowhere:/bin", "sh"), "/bin/sh");
  EXPECT_EQ(FindOnPath("/nowhere", "sh"), "");
  EXPECT_EQ(FindOnPath("/etc", "passwd"), "");  // not executable
}

TEST(HostFacts, DescribesThisHost) {
  const HostFacts facts = ReadHostFacts();
  EXPECT_GE(facts.logical_cpus, facts.usable_cpus);
  EXPECT_GE(facts.usable_cpus, 1);
  EXPECT_GT(facts.memory_bytes, 0);
  EXPECT_GT(facts.working_directory.total_bytes, 0);
}

TEST(MpiProbe, FindsAnMpiThatTheRuntimeCanUse) {
  const MpiFacts facts = ProbeMpi();
  EXPECT_FALSE(facts.library.empty());
  EXPECT_EQ(facts.thread_level, "MPI_THREAD_MULTIPLE");
}

HostFacts GoodHost() {
  HostFacts facts;
  facts.cpu_model = "CPU";
  facts.instruction_sets = {"avx2", "fma", "bmi2"};
  facts.logical_cpus = facts.usable_cpus = 8;
  facts.memory_bytes = int64_t{16} << 30;
  facts.mpi_library = "Open MPI";
  facts.mpi_thread_level = "MPI_THREAD_MULTIPLE";
  facts.mpirun_path = "/usr/bin/mpirun";
  facts.srun_path = "/usr/bin/srun";
  facts.sbatch_path = "/usr/bin/sbatch";
  facts.stack_tool_path = "/usr/bin/eu-stack";
  facts.built_with_cuda = true;
  facts.cudnn_version = "9.19.0";
  facts.cuda_devices = 1;
  facts.nvidia_driver = "580";
  facts.shared_memory = {"/dev/shm", int64_t{1} << 30, int64_t{1} << 30};
  facts.working_directory = {"/", int64_t{1} << 40, int64_t{1} << 39};
  facts.open_files_limit = 1024;
  return facts;
}

Level LevelOf(const HostFacts& facts, const std::string& subject) {
  for (const Finding& finding : Assess(facts)) {
    if (finding.subject == subject) {
      EXPECT_EQ(finding.advice.empty(), finding.level == Level::kOk) << subject;
      return finding.level;
    }
  }
  ADD_FAILURE() << "no finding on " << subject;
  return Level::kOk;
}

TEST(HostAdvice, AGoodHostLacksNothing) {
  for (const Finding& finding : Assess(GoodHost())) {
    EXPECT_EQ(finding.level, Level::kOk) << finding.subject << ": " << finding.advice;
  }
}

TEST(HostAdvice, EachLackIsFoundOnItsOwn) {
  const struct {
    const char* subject;
    Level level;
    void (*spoil)(HostFacts&);
  } kCases[] = {
      {"processor", Level::kMissing, [](HostFacts& f) { f.instruction_sets = {"avx"}; }},
      {"memory", Level::kNote, [](HostFacts& f) { f.memory_limit_bytes = 1 << 30; }},
      {"MPI", Level::kMissing, [](HostFacts& f) { f.mpi_thread_level = ""; }},
      {"MPI", Level::kMissing, [](HostFacts& f) { f.mpi_thread_level = "MPI_THREAD_SINGLE"; }},
      {"mpirun", Level::kNote, [](HostFacts& f) { f.mpirun_path = ""; }},
      {"mpirun", Level::kMissing, [](HostFacts& f) { f.mpirun_path = f.srun_path = ""; }},
      {"stacks", Level::kNote, [](HostFacts& f) { f.stack_tool_path = ""; }},
      {"Slurm", Level::kNote, [](HostFacts& f) { f.sbatch_path = ""; }},
      {"CUDA", Level::kNote, [](HostFacts& f) { f.built_with_cuda = false; }},
      {"CUDA", Level::kNote, [](HostFacts& f) { f.cuda_devices = 0; }},
      {"cuDNN", Level::kNote, [](HostFacts& f) { f.cudnn_version = ""; }},
      {"shared memory", Level::kNote, [](HostFacts& f) { f.shared_memory.free_bytes = 64 << 20; }},
      {"disk", Level::kNote, [](HostFacts& f) { f.working_directory.free_bytes = 1 << 20; }},
      {"limits", Level::kNote, [](HostFacts& f) { f.open_files_limit = 256; }},
  };
  for (const auto& test : kCases) {
    HostFacts facts = GoodHost();
    test.spoil(facts);
    EXPECT_EQ(LevelOf(facts, test.subject), test.level) << test.subject;
  }
}

}  // namespace
}  // namespace muster::launch
