#include "launch/open_files.h"

#include <gtest/gtest.h>
#include <sys/resource.h>

namespace muster::launch {
namespace {

class OpenFiles : public ::testing::Test {
 protected:
  OpenFiles() { getrlimit(RLIMIT_NOFILE, &before_); }
  ~OpenFiles() override { setrlimit(RLIMIT_NOFILE, &before_); }
  rlimit before_{};
};

TEST_F(OpenFiles, ALimitIsRaisedToWhatRanksNeedAndNoFurther) {
  rlimit limit{.rlim_cur = 64, .rlim_max = before_.rlim_max};
  ASSERT_EQ(setrlimit(RLIMIT_NOFILE, &limit), 0);
  EXPECT_TRUE(AllowOpenFilesFor(100).ok());
  getrlimit(RLIMIT_NOFILE, &limit);
  EXPECT_EQ(limit.rlim_cur, 228u);
  EXPECT_TRUE(AllowOpenFilesFor(10).ok());
  getrlimit(RLIMIT_NOFILE, &limit);
  EXPECT_EQ(limit.rlim_cur, 228u) << "it is never lowered";
}

TEST_F(OpenFiles, AHostThatAllowsTooFewIsNamedBeforeRanksStart) {
  if (before_.rlim_max >= 2'000'000'000) GTEST_SKIP() << "this host allows any number";
  const absl::Status status = AllowOpenFilesFor(2'000'000'000);
  EXPECT_EQ(status.code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_NE(status.message().find("2000000128 open files"), std::string::npos) << status;
}

}  // namespace
}  // namespace muster::launch
