// The one target that MUSTER_FUZZ_TARGET names, for libFuzzer.
#include "tests/fuzz/target.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  return muster::fuzz::MUSTER_FUZZ_TARGET(
      std::string_view(reinterpret_cast<const char*>(data), size));
}
