#pragma once
// Which sanitizer this build has, for the few tests that cannot hold under one: those that bound a
// time exactly. They skip themselves with a reason, which `tests/run --sanitize` lists at its end.
#include <gtest/gtest.h>

namespace muster {

#if defined(__SANITIZE_THREAD__)
constexpr const char* kSanitizer = "ThreadSanitizer";
#elif defined(__SANITIZE_ADDRESS__)
constexpr const char* kSanitizer = "AddressSanitizer";
#else
constexpr const char* kSanitizer = nullptr;
#endif

}  // namespace muster

// In a test's body; `reason` is a phrase.
#define SKIP_UNDER_SANITIZERS(reason)                                         \
  if (::muster::kSanitizer != nullptr) {                                      \
    GTEST_SKIP() << "not under " << ::muster::kSanitizer << ": " << (reason); \
  }                                                                           \
  static_assert(true)
