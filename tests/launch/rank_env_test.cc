#include "launch/rank_env.h"

#include <gtest/gtest.h>

#include <cstdlib>

namespace muster::launch {
namespace {

using Launcher = RankEnv::Launcher;

RankEnv Read(const Environment& environment) {
  const absl::StatusOr<RankEnv> result = ReadRankEnv(environment);
  EXPECT_TRUE(result.ok()) << result.status();
  return result.ok() ? *result : RankEnv{};
}

TEST(RankEnv, AProcessWithoutLauncherIsAlone) {
  const RankEnv env = Read({{"PATH", "/bin"}});
  EXPECT_EQ(env.launcher, Launcher::kAlone);
  EXPECT_EQ(env.rank, 0);
  EXPECT_EQ(env.size, 1);
  EXPECT_EQ(env.local_rank, 0);
  EXPECT_EQ(env.local_size, 1);
  EXPECT_EQ(env.scheduler.id, "");
}

TEST(RankEnv, ReadsOpenMpi) {
  const RankEnv env = Read({{"OMPI_COMM_WORLD_RANK", "5"},
                            {"OMPI_COMM_WORLD_SIZE", "8"},
                            {"OMPI_COMM_WORLD_LOCAL_RANK", "1"},
                            {"OMPI_COMM_WORLD_LOCAL_SIZE", "4"}});
  EXPECT_EQ(env.launcher, Launcher::kOpenMpi);
  EXPECT_EQ(env.rank, 5);
  EXPECT_EQ(env.size, 8);
  EXPECT_EQ(env.local_rank, 1);
  EXPECT_EQ(env.local_size, 4);
}

TEST(RankEnv, ReadsHydra) {
  const RankEnv env = Read(
      {{"PMI_RANK", "1"}, {"PMI_SIZE", "2"}, {"MPI_LOCALRANKID", "1"}, {"MPI_LOCALNRANKS", "2"}});
  EXPECT_EQ(env.launcher, Launcher::kPmi);
  EXPECT_EQ(env.rank, 1);
  EXPECT_EQ(env.size, 2);
  EXPECT_EQ(env.local_size, 2);
}

TEST(RankEnv, ReadsASlurmStepWithItsRestarts) {
  const RankEnv env = Read({{"SLURM_PROCID", "3"},
                            {"SLURM_STEP_NUM_TASKS", "4"},
                            {"SLURM_LOCALID", "1"},
                            {"SLURM_JOB_ID", "77"},
                            {"SLURM_RESTART_COUNT", "2"}});
  EXPECT_EQ(env.launcher, Launcher::kSlurm);
  EXPECT_EQ(env.rank, 3);
  EXPECT_EQ(env.size, 4);
  EXPECT_EQ(env.local_rank, 1);
  EXPECT_EQ(env.scheduler.id, "77");
  EXPECT_EQ(env.scheduler.restarts, 2);
}

TEST(RankEnv, MpirunWinsInsideAnAllocation) {
  const RankEnv env = Read({{"SLURM_PROCID", "0"},
                            {"SLURM_STEP_NUM_TASKS", "1"},
                            {"SLURM_JOB_ID", "77"},
                            {"OMPI_COMM_WORLD_RANK", "2"},
                            {"OMPI_COMM_WORLD_SIZE", "3"}});
  EXPECT_EQ(env.launcher, Launcher::kOpenMpi);
  EXPECT_EQ(env.rank, 2);
  EXPECT_EQ(env.size, 3);
  EXPECT_EQ(env.scheduler.id, "77");
  EXPECT_EQ(env.scheduler.restarts, 0);
}

TEST(RankEnv, ABatchScriptOutsideOfAStepIsAlone) {
  const RankEnv env = Read({{"SLURM_PROCID", "0"}, {"SLURM_NTASKS", "8"}, {"SLURM_JOB_ID", "9"}});
  EXPECT_EQ(env.launcher, Launcher::kAlone);
  EXPECT_EQ(env.size, 1);
  EXPECT_EQ(env.scheduler.id, "9");
}

TEST(RankEnv, ReadsWhenTheJobWasSubmittedAndStarted) {
  const RankEnv env = Read({{"SLURM_JOB_ID", "9"},
                            {"SLURM_RESTART_COUNT", "1"},
                            {"SLURM_JOB_START_TIME", "1772160331"},
                            {"MUSTER_SUBMIT_TIME", "1772159000"}});
  EXPECT_EQ(env.scheduler, (runtime::SchedulerJob{"9", 1, 1772159000, 1772160331}));
  EXPECT_EQ(Read({{"SLURM_JOB_ID", "9"}}).scheduler.started_s, 0);  // an older Slurm
  EXPECT_FALSE(ReadRankEnv({{"SLURM_JOB_ID", "1"}, {"SLURM_JOB_START_TIME", "today"}}).ok());
}

TEST(RankEnv, NamesTheVariableThatIsNoNumber) {
  for (const char* value : {"", "x", "3x", "-1", "99999999999"}) {
    const auto result =
        ReadRankEnv({{"OMPI_COMM_WORLD_RANK", value}, {"OMPI_COMM_WORLD_SIZE", "4"}});
    ASSERT_FALSE(result.ok()) << value;
    const std::string message(result.status().message());
    EXPECT_NE(message.find("OMPI_COMM_WORLD_RANK='" + std::string(value) + "'"), std::string::npos)
        << message;
  }
}

TEST(RankEnv, RefusesARankNotBelowItsSize) {
  const auto result = ReadRankEnv({{"OMPI_COMM_WORLD_RANK", "4"}, {"OMPI_COMM_WORLD_SIZE", "4"}});
  ASSERT_FALSE(result.ok());
  EXPECT_NE(result.status().message().find("OMPI_COMM_WORLD_SIZE=4"), std::string::npos);
  EXPECT_FALSE(ReadRankEnv({{"PMI_RANK", "0"}, {"PMI_SIZE", "0"}}).ok());
  EXPECT_FALSE(ReadRankEnv({{"SLURM_JOB_ID", "1"}, {"SLURM_RESTART_COUNT", "often"}}).ok());
}

TEST(RankEnv, SeesTheProcessEnvironment) {
  setenv("MUSTER_RANK_ENV_TEST", "a=b", 1);
  const Environment environment = CurrentEnvironment();
  unsetenv("MUSTER_RANK_ENV_TEST");
  ASSERT_TRUE(environment.contains("MUSTER_RANK_ENV_TEST"));
  EXPECT_EQ(environment.at("MUSTER_RANK_ENV_TEST"), "a=b");
}

}  // namespace
}  // namespace muster::launch
