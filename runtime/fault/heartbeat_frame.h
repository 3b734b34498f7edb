#pragma once
// What a rank says to its supervisor: frames of one fixed size over a TCP connection that the
// supervisor opens with a greeting. Each frame is authenticated: its last 16 bytes are HMAC-SHA256
// (cut to 128 bits) of the rest under HMAC(run secret, nonce of the greeting), and frames are
// numbered, so none can be forged, replayed on another connection, or left out.
//
// After its greeting a supervisor says only two things, bytes that are not authenticated:
// kEvidenceRequest makes a rank write down what it is doing, and nothing else; kDismissal, before
// the connection closes, ends it as the close alone would, but without a word.
//
// Greeting, 32 bytes: u32 magic, u32 version, 16 bytes of nonce, 8 bytes of zero.
// Frame, 416 bytes, little-endian: see EncodeFrame.
#include <array>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

#include "absl/status/statusor.h"
#include "runtime/goodput/ledger.h"
#include "runtime/goodput/rank_progress.h"

namespace muster::runtime {

constexpr size_t kGreetingBytes = 32, kFrameBytes = 416, kTagBytes = 16, kNonceBytes = 16;
constexpr char kEvidenceRequest = 'e', kDismissal = 'd';
constexpr size_t kFrameHostBytes = 64, kFrameDoingBytes = 48;

// 128 bits that a run's supervisor draws and its ranks learn by their environment.
class RunSecret {
 public:
  static RunSecret Draw();  // from the kernel's random numbers
  // 32 hexadecimal digits. Errors: InvalidArgument, without quoting the text.
  static absl::StatusOr<RunSecret> Parse(std::string_view hex);
  std::string Hex() const;
  std::string_view bytes() const { return bytes_; }

 private:
  explicit RunSecret(std::string bytes) : bytes_(std::move(bytes)) {}
  std::string bytes_;
};

struct Frame {
  enum class Type : uint8_t { kHello = 1, kBeat = 2, kGoodbye = 3 };
  Type type = Type::kBeat;
  int32_t attempt = 0, rank = 0, world_size = 1;
  int32_t pid = 0;
  int32_t exit_code = 0;  // kGoodbye
  uint64_t sequence = 0;  // of this connection, from 0
  State state = State::kLaunch;
  int64_t step = 0, steps_done = 0;       // begun last; ended in this attempt
  int64_t step_ns = 0, last_step_ns = 0;  // of all steps that ended in this attempt; of the last
  // As in ProgressFacts. Travels in microseconds and in 32 bits: 71 minutes pass for longer steps.
  std::array<StepWork, kStepsRemembered> work{};
  uint64_t process_space = 0;  // in which `pid` is a process; 0: not known
  std::string host;            // as gethostname says, which need not be how others call it
  std::string doing;           // what it waits for, if it knows; cut to 48 bytes
};

using FrameBytes = std::array<char, kFrameBytes>;
using GreetingBytes = std::array<char, kGreetingBytes>;

GreetingBytes EncodeGreeting(std::string_view nonce);
// The nonce; nullopt if it is no greeting.
std::optional<std::string> DecodeGreeting(std::string_view bytes);

// The key of one connection.
std::string ConnectionKey(const RunSecret& secret, std::string_view nonce);
FrameBytes EncodeFrame(const Frame& frame, std::string_view key);
// nullopt if `bytes` is not of kFrameBytes, not authentic, or has a value out of range. The tag is
// compared in constant time, and nothing else is looked at before it holds.
std::optional<Frame> DecodeFrame(std::string_view bytes, std::string_view key);

}  // namespace muster::runtime
