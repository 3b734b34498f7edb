#pragma once
// How errors travel. absl::Status where the world may say no (files, configs, other ranks, memory);
// MUSTER_CHECK where only our own bug can be the cause (shapes, dtypes, launches): it prints the
// condition with file and line and aborts. There are no exceptions.
#include <sstream>
#include <string>
#include <utility>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace muster::kernels {

// Collects the message of a failed check; its destructor prints it and aborts the process.
class CheckFailure {
 public:
  CheckFailure(const char* file, int line, const char* condition);
  [[noreturn]] ~CheckFailure();
  std::ostream& stream() { return message_; }

 private:
  std::ostringstream message_;
};

// Puts `where` in front of a failed status' message; an OK status is returned as it is.
absl::Status Annotate(const absl::Status& status, const std::string& where);

// What a device's library failed with, in its own words. ResourceExhausted if they speak of memory
// ("out of memory", "..._ALLOC_FAILED", "..._ALLOCATION_FAILED"), which callers can do something
// about; else Internal.
absl::Status LibraryError(const std::string& message);

}  // namespace muster::kernels

#define MUSTER_CHECK(condition) \
  while (!(condition)) ::muster::kernels::CheckFailure(__FILE__, __LINE__, #condition).stream()
#define MUSTER_CHECK_EQ(a, b) MUSTER_CHECK((a) == (b)) << (a) << " vs " << (b) << " "
#define MUSTER_CHECK_OK(expression)                                               \
  if (absl::Status muster_check_status = (expression); !muster_check_status.ok()) \
  ::muster::kernels::CheckFailure(__FILE__, __LINE__, #expression).stream()       \
      << muster_check_status.ToString()

#define MUSTER_CONCAT_(a, b) a##b
#define MUSTER_CONCAT(a, b) MUSTER_CONCAT_(a, b)
#define RETURN_IF_ERROR(expression) \
  if (absl::Status muster_status = (expression); !muster_status.ok()) return muster_status
#define ASSIGN_OR_RETURN(declaration, expression) \
  MUSTER_ASSIGN_OR_RETURN_(MUSTER_CONCAT(muster_or_, __LINE__), declaration, expression)
#define MUSTER_ASSIGN_OR_RETURN_(result, declaration, expression) \
  auto result = (expression);                                     \
  if (!result.ok()) return std::move(result).status();            \
  declaration = *std::move(result)
