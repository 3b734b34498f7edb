#include "launch/exit_codes.h"

#include <gtest/gtest.h>

#include "runtime/fault/detector.h"
#include "runtime/fault/policy.h"
#include "runtime/train/roll_back.h"

namespace muster::launch {
namespace {

using absl::StatusCode;
using runtime::Action;

// What a supervisor does when a rank says goodbye with this code.
runtime::Decision After(int exit_code) {
  runtime::Detector detector({}, 1, 0);
  runtime::RankEvent event{.kind = runtime::RankEvent::Kind::kFrame, .rank = 0};
  detector.See(event);
  event.frame.type = runtime::Frame::Type::kGoodbye;
  event.frame.exit_code = exit_code;
  detector.See(event);
  detector.SeeExit(exit_code, 1);
  const std::optional<runtime::Failure>& failure = detector.Check(1);
  EXPECT_TRUE(failure) << exit_code;
  return runtime::Decide(*failure, {.world_size = 1}, {});
}

TEST(ExitCodes, AStartThatFailsForReasonsThatPassIsTriedAgain) {
  for (const StatusCode code :
       {StatusCode::kUnavailable, StatusCode::kResourceExhausted, StatusCode::kDeadlineExceeded,
        StatusCode::kDataLoss, StatusCode::kInternal, StatusCode::kCancelled, StatusCode::kUnknown,
        StatusCode::kOutOfRange}) {
    const int exit_code = ExitCodeOfStart(absl::Status(code, "x"));
    EXPECT_EQ(exit_code, kExitFailure) << absl::StatusCodeToString(code);
    EXPECT_EQ(After(exit_code).action, Action::kRestart) << absl::StatusCodeToString(code);
  }
}

TEST(ExitCodes, AStartThatAPersonHasToCorrectIsNot) {
  for (const StatusCode code :
       {StatusCode::kInvalidArgument, StatusCode::kFailedPrecondition, StatusCode::kAlreadyExists,
        StatusCode::kNotFound, StatusCode::kPermissionDenied, StatusCode::kUnimplemented}) {
    const int exit_code = ExitCodeOfStart(absl::Status(code, "x"));
    EXPECT_EQ(exit_code, kExitUsage) << absl::StatusCodeToString(code);
    const runtime::Decision decision = After(exit_code);
    EXPECT_EQ(decision.action, Action::kStop) << absl::StatusCodeToString(code);
    EXPECT_EQ(decision.exit_code, kExitUsage);
  }
}

TEST(ExitCodes, ARunWhoseStateIsNotSavedIsTrainedAgain) {
  EXPECT_EQ(After(kExitNotSaved).action, Action::kRestart);
}

TEST(ExitCodes, ARunThatAnotherJobHoldsIsNotRequeued) {
  const absl::Status held = absl::AbortedError("x");
  for (const int code : {ExitCodeOf(held), ExitCodeOfStart(held)}) {
    EXPECT_EQ(code, kExitDoNotRequeue);
    EXPECT_EQ(After(code).action, Action::kStop);
  }
}

TEST(ExitCodes, AnErrorWhileTrainingIsNeverTakenForUsage) {
  EXPECT_EQ(ExitCodeOf(absl::NotFoundError("x")), kExitFailure);
  EXPECT_EQ(ExitCodeOf(absl::DataLossError("x")), kExitFailure);
  EXPECT_EQ(ExitCodeOf(runtime::RollBackError("x")), kExitRollBack);
  EXPECT_EQ(After(kExitRollBack).action, Action::kRestart);
}

}  // namespace
}  // namespace muster::launch
