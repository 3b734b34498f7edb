#include "kernels/base/error.h"

#include <gtest/gtest.h>

#include <memory>

namespace muster::kernels {
namespace {

absl::StatusOr<std::unique_ptr<int>> Half(int value) {
  if (value % 2 != 0) return absl::InvalidArgumentError("odd");
  return std::make_unique<int>(value / 2);
}
absl::Status QuarterInto(int value, int* quarter) {
  ASSIGN_OR_RETURN(const std::unique_ptr<int> half, Half(value));
  ASSIGN_OR_RETURN(auto result, Half(*half));
  *quarter = *result;
  return absl::OkStatus();
}
absl::Status QuarterTwice(int first, int second, int* quarter) {
  RETURN_IF_ERROR(QuarterInto(first, quarter));
  RETURN_IF_ERROR(QuarterInto(second, quarter));
  return absl::OkStatus();
}

TEST(ReturnIfError, EndsAtTheFirstError) {
  int quarter = 0;
  EXPECT_TRUE(QuarterTwice(8, 12, &quarter).ok());
  EXPECT_EQ(quarter, 3);
  EXPECT_EQ(QuarterTwice(6, 20, &quarter), absl::InvalidArgumentError("odd"));
  EXPECT_EQ(quarter, 3);
}

TEST(Annotate, KeepsTheCodeAndSaysWhere) {
  EXPECT_EQ(Annotate(absl::NotFoundError("no x"), "file f"), absl::NotFoundError("file f: no x"));
  EXPECT_TRUE(Annotate(absl::OkStatus(), "file f").ok());
}

TEST(CheckDeathTest, PrintsConditionPlaceAndMessage) {
  const int found = 3;
  EXPECT_DEATH(MUSTER_CHECK(found == 4) << "found " << found,
               "error_test.cc:[0-9]+: found == 4 found 3");
  EXPECT_DEATH(MUSTER_CHECK_EQ(found, 4) << "sizes", "3 vs 4 sizes");
  EXPECT_DEATH(MUSTER_CHECK_OK(absl::NotFoundError("no x")), "NOT_FOUND: no x");
}

TEST(Check, EvaluatesItsConditionOnceAndItsMessageOnlyOnFailure) {
  int conditions = 0, messages = 0;
  MUSTER_CHECK(++conditions == 1) << ++messages;
  EXPECT_EQ(conditions, 1);
  EXPECT_EQ(messages, 0);
}

TEST(LibraryError, IsAboutMemoryIfItsWordsAre) {
  for (const char* words : {"cublasLtMatmul of x: CUBLAS_STATUS_ALLOC_FAILED",
                            "CUDNN_STATUS_INTERNAL_ERROR_DEVICE_ALLOCATION_FAILED",
                            "NCCL: unhandled cuda error (Cuda failure 2 'out of memory')"}) {
    EXPECT_TRUE(absl::IsResourceExhausted(LibraryError(words))) << words;
    EXPECT_EQ(LibraryError(words).message(), words);
  }
  for (const char* words : {"CUBLAS_STATUS_EXECUTION_FAILED", "an illegal memory access", ""}) {
    EXPECT_TRUE(absl::IsInternal(LibraryError(words))) << words;
  }
}

}  // namespace
}  // namespace muster::kernels
