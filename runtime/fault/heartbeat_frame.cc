#include "runtime/fault/heartbeat_frame.h"

#include <openssl/crypto.h>
#include <openssl/evp.h>
#include <openssl/hmac.h>
#include <openssl/rand.h>

#include <algorithm>
#include <cstring>
#include <limits>

#include "kernels/base/error.h"
#include "runtime/goodput/record_fields.h"

namespace muster::runtime {
namespace {

constexpr uint32_t kMagic = 0x5442534d;  // "MSBT"
constexpr uint32_t kVersion = 4;
constexpr size_t kSecretBytes = 16;
constexpr size_t kTextAt = 4 + 4 + 5 * 4 + 6 * 8;  // behind the numbers
constexpr int64_t kNsPerUs = 1'000;

std::string Hmac(std::string_view key, std::string_view text) {
  unsigned char digest[EVP_MAX_MD_SIZE];
  unsigned int size = 0;
  MUSTER_CHECK(HMAC(EVP_sha256(), key.data(), static_cast<int>(key.size()),
                    reinterpret_cast<const unsigned char*>(text.data()), text.size(), digest,
                    &size) != nullptr);
  return std::string(reinterpret_cast<char*>(digest), size);
}

// Fills a buffer of fixed size from the front.
class Packer {
 public:
  explicit Packer(char* at) : at_(at) {}
  template <typename T>
  Packer& Put(T value) {
    std::memcpy(at_, &value, sizeof(value));
    at_ += sizeof(value);
    return *this;
  }
  Packer& PutText(std::string_view text, size_t size) {  // padded with zeros
    std::memset(at_, 0, size);
    std::memcpy(at_, text.data(), std::min(text.size(), size));
    at_ += size;
    return *this;
  }

 private:
  char* at_;
};

uint32_t Packed(int64_t value) {
  return static_cast<uint32_t>(std::clamp<int64_t>(value, 0, std::numeric_limits<uint32_t>::max()));
}

// Up to the first zero; bytes that are not printable ASCII become '?'.
std::string Text(std::string_view bytes) {
  std::string text(bytes.substr(0, bytes.find('\0')));
  for (char& c : text) {
    if (c < ' ' || c > '~') c = '?';
  }
  return text;
}

bool Sane(const Frame& f, uint8_t type, uint8_t state) {
  return type >= 1 && type <= 3 && state < kNumStates && f.world_size >= 1 && f.rank >= 0 &&
         f.rank < f.world_size && f.pid >= 0 && f.step >= 0 && f.steps_done >= 0 &&
         f.step_ns >= 0 && f.last_step_ns >= 0;
}

}  // namespace

RunSecret RunSecret::Draw() {
  std::string bytes(kSecretBytes, '\0');
  MUSTER_CHECK(RAND_bytes(reinterpret_cast<unsigned char*>(bytes.data()),
                          static_cast<int>(bytes.size())) == 1);
  return RunSecret(std::move(bytes));
}

absl::StatusOr<RunSecret> RunSecret::Parse(std::string_view hex) {
  const auto digit = [](char c) {
    if (c >= '0' && c <= '9') return c - '0';
    if (c >= 'a' && c <= 'f') return c - 'a' + 10;
    return -1;
  };
  std::string bytes;
  bool good = hex.size() == 2 * kSecretBytes;
  for (size_t i = 0; good && i < hex.size(); i += 2) {
    const int high = digit(hex[i]), low = digit(hex[i + 1]);
    good = high >= 0 && low >= 0;
    bytes += static_cast<char>(high * 16 + low);
  }
  if (good) return RunSecret(std::move(bytes));
  return absl::InvalidArgumentError("a run secret is 32 lower-case hexadecimal digits");
}

std::string RunSecret::Hex() const {
  std::string text;
  for (const char c : bytes_) {
    const auto byte = static_cast<unsigned char>(c);
    text += "0123456789abcdef"[byte >> 4];
    text += "0123456789abcdef"[byte & 15];
  }
  return text;
}

GreetingBytes EncodeGreeting(std::string_view nonce) {
  GreetingBytes bytes{};
  Packer(bytes.data()).Put(kMagic).Put(kVersion).PutText(nonce, kNonceBytes);
  return bytes;
}

std::optional<std::string> DecodeGreeting(std::string_view bytes) {
  if (bytes.size() != kGreetingBytes) return std::nullopt;
  RecordFields fields(bytes);
  if (fields.Take<uint32_t>() != kMagic || fields.Take<uint32_t>() != kVersion) {
    return std::nullopt;
  }
  return std::string(bytes.substr(8, kNonceBytes));
}

std::string ConnectionKey(const RunSecret& secret, std::string_view nonce) {
  return Hmac(secret.bytes(), nonce);
}

FrameBytes EncodeFrame(const Frame& f, std::string_view key) {
  FrameBytes bytes{};
  Packer packer(bytes.data());
  packer.Put(kMagic)
      .Put(static_cast<uint8_t>(f.type))
      .Put(static_cast<uint8_t>(f.state))
      .Put(uint16_t{0})
      .Put(f.attempt)
      .Put(f.rank)
      .Put(f.world_size)
      .Put(f.pid)
      .Put(f.exit_code)
      .Put(f.sequence)
      .Put(f.step)
      .Put(f.steps_done)
      .Put(f.step_ns)
      .Put(f.last_step_ns)
      .Put(f.process_space)
      .PutText(f.host, kFrameHostBytes)
      .PutText(f.doing, kFrameDoingBytes);
  for (const StepWork& work : f.work) {
    packer.Put(Packed(work.even_ns / kNsPerUs))
        .Put(Packed(work.uneven_ns / kNsPerUs))
        .Put(Packed(work.uneven_rows));
  }
  static_assert(kTextAt + kFrameHostBytes + kFrameDoingBytes + kStepsRemembered * 3 * 4 +
                    kTagBytes <=
                kFrameBytes);
  const std::string tag = Hmac(key, {bytes.data(), kFrameBytes - kTagBytes});
  std::memcpy(bytes.data() + kFrameBytes - kTagBytes, tag.data(), kTagBytes);
  return bytes;
}

std::optional<Frame> DecodeFrame(std::string_view bytes, std::string_view key) {
  if (bytes.size() != kFrameBytes) return std::nullopt;
  const std::string tag = Hmac(key, bytes.substr(0, kFrameBytes - kTagBytes));
  if (CRYPTO_memcmp(tag.data(), bytes.data() + kFrameBytes - kTagBytes, kTagBytes) != 0) {
    return std::nullopt;
  }
  RecordFields fields(bytes);
  if (fields.Take<uint32_t>() != kMagic) return std::nullopt;
  Frame f;
  const uint8_t type = fields.Take<uint8_t>(), state = fields.Take<uint8_t>();
  fields.Take<uint16_t>();
  f.attempt = fields.Take<int32_t>();
  f.rank = fields.Take<int32_t>();
  f.world_size = fields.Take<int32_t>();
  f.pid = fields.Take<int32_t>();
  f.exit_code = fields.Take<int32_t>();
  f.sequence = fields.Take<uint64_t>();
  f.step = fields.Take<int64_t>();
  f.steps_done = fields.Take<int64_t>();
  f.step_ns = fields.Take<int64_t>();
  f.last_step_ns = fields.Take<int64_t>();
  f.process_space = fields.Take<uint64_t>();
  f.host = Text(bytes.substr(kTextAt, kFrameHostBytes));
  f.doing = Text(bytes.substr(kTextAt + kFrameHostBytes, kFrameDoingBytes));
  fields = RecordFields(bytes.substr(kTextAt + kFrameHostBytes + kFrameDoingBytes));
  for (StepWork& work : f.work) {
    work.even_ns = fields.Take<uint32_t>() * kNsPerUs;
    work.uneven_ns = fields.Take<uint32_t>() * kNsPerUs;
    work.uneven_rows = fields.Take<uint32_t>();
  }
  if (!fields.ok() || !Sane(f, type, state)) return std::nullopt;
  f.type = static_cast<Frame::Type>(type);
  f.state = static_cast<State>(state);
  return f;
}

}  // namespace muster::runtime
