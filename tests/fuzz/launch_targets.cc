// What the launcher reads: host lists, and what ranks send to it.
#include <openssl/evp.h>
#include <openssl/hmac.h>

#include <algorithm>
#include <cstring>
#include <string>
#include <vector>

#include "kernels/base/error.h"
#include "launch/hosts.h"
#include "runtime/fault/heartbeat_frame.h"
#include "tests/fuzz/target.h"

namespace muster::fuzz {

int Hosts(std::string_view bytes) {
  const auto hosts = launch::ParseHosts(bytes);
  if (!hosts.ok()) return 0;
  auto pool = launch::HostPool::Make(*hosts, /*spares=*/1, /*num_ranks=*/1);
  if (!pool.ok()) return 0;
  MUSTER_CHECK(pool->num_slots() >= 1);
  // Without its first host, but with the spare, it still places as many ranks as it says.
  const std::string out = hosts->front().name;
  const int ranks = std::min(pool->SlotsWithout({out}), 1'000);
  MUSTER_CHECK(ranks >= 1);
  MUSTER_CHECK(pool->Replace({out}, ranks).size() <= 1);
  const std::vector<std::string> placed = launch::PlaceRanks(pool->in_use(), ranks);
  MUSTER_CHECK(placed.size() == static_cast<size_t>(ranks));
  MUSTER_CHECK(std::count(placed.begin(), placed.end(), out) == 0);
  return 0;
}

// The first byte says whether the frame gets its length and its tag: no mutation would guess a tag.
int Heartbeat(std::string_view bytes) {
  if (bytes.empty()) return 0;
  const std::string key = "the key of a connection";
  const bool authentic = bytes[0] % 2 == 1;
  std::string frame(bytes.substr(1));
  (void)runtime::DecodeGreeting(frame);
  if (authentic) {
    frame.resize(runtime::kFrameBytes);
    const size_t size = runtime::kFrameBytes - runtime::kTagBytes;
    unsigned char tag[EVP_MAX_MD_SIZE];
    unsigned length = 0;
    HMAC(EVP_sha256(), key.data(), static_cast<int>(key.size()),
         reinterpret_cast<const unsigned char*>(frame.data()), size, tag, &length);
    std::memcpy(frame.data() + size, tag, runtime::kTagBytes);
  }
  const auto decoded = runtime::DecodeFrame(frame, key);
  if (!decoded) return 0;
  // What was accepted is written and read again to the same frame.
  const auto first = runtime::EncodeFrame(*decoded, key);
  const auto second = runtime::DecodeFrame({first.data(), first.size()}, key);
  MUSTER_CHECK(second.has_value());
  MUSTER_CHECK(runtime::EncodeFrame(*second, key) == first);
  return 0;
}

}  // namespace muster::fuzz
