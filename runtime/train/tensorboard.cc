#include "runtime/train/tensorboard.h"

#include <unistd.h>

#include <array>
#include <ctime>
#include <filesystem>
#include <system_error>

#include "kernels/base/error.h"
#include "runtime/train/event.pb.h"

namespace muster::runtime {
namespace {

constexpr uint32_t kCastagnoliReversed = 0x82F63B78;

constexpr std::array<uint32_t, 256> MakeCrcTable() {
  std::array<uint32_t, 256> table{};
  for (uint32_t byte = 0; byte < 256; ++byte) {
    uint32_t crc = byte;
    for (int bit = 0; bit < 8; ++bit) crc = (crc >> 1) ^ ((crc & 1) ? kCastagnoliReversed : 0);
    table[byte] = crc;
  }
  return table;
}

template <typename T>
void AppendLittleEndian(T value, std::string* text) {
  for (size_t i = 0; i < sizeof(T); ++i) text->push_back(static_cast<char>(value >> (8 * i)));
}

}  // namespace

uint32_t Crc32c(std::string_view bytes) {
  static constexpr std::array<uint32_t, 256> kTable = MakeCrcTable();
  uint32_t crc = ~uint32_t{0};
  for (const char c : bytes) crc = (crc >> 8) ^ kTable[(crc ^ static_cast<uint8_t>(c)) & 0xff];
  return ~crc;
}

uint32_t MaskedCrc32c(std::string_view bytes) {
  const uint32_t crc = Crc32c(bytes);
  return ((crc >> 15) | (crc << 17)) + 0xa282ead8u;
}

std::string FrameRecord(std::string_view payload) {
  std::string frame;
  frame.reserve(payload.size() + 16);
  AppendLittleEndian<uint64_t>(payload.size(), &frame);
  AppendLittleEndian(MaskedCrc32c(frame), &frame);
  frame.append(payload);
  AppendLittleEndian(MaskedCrc32c(payload), &frame);
  return frame;
}

absl::StatusOr<std::unique_ptr<TensorBoardWriter>> TensorBoardWriter::Create(
    const std::string& directory) {
  std::error_code error;
  std::filesystem::create_directories(directory, error);  // opening the file tells the error
  char host[256] = "host";
  gethostname(host, sizeof(host) - 1);
  const auto now = static_cast<int64_t>(time(nullptr));
  const std::string path = directory + "/events.out.tfevents." + std::to_string(now) + "." + host +
                           "." + std::to_string(getpid());
  ASSIGN_OR_RETURN(std::unique_ptr<AppendFile> file,
                   AppendFile::Open(path, AppendFile::Start::kAsIs));
  tensorboard::Event version;
  version.set_wall_time(static_cast<double>(now));
  version.set_file_version("brain.Event:2");
  file->Append(FrameRecord(version.SerializeAsString()));
  return std::unique_ptr<TensorBoardWriter>(new TensorBoardWriter(std::move(file)));
}

void TensorBoardWriter::Write(int64_t step, double wall_seconds, const Scalars& scalars) {
  tensorboard::Event event;
  event.set_wall_time(wall_seconds);
  event.set_step(step);
  for (const auto& [tag, value] : scalars) {
    tensorboard::Summary::Value* entry = event.mutable_summary()->add_value();
    entry->set_tag(tag);
    entry->set_simple_value(static_cast<float>(value));
  }
  file_->Append(FrameRecord(event.SerializeAsString()));
}

void TensorBoardWriter::BeginAgain(int64_t step, double wall_seconds) {
  tensorboard::Event event;
  event.set_wall_time(wall_seconds);
  event.set_step(step);
  event.mutable_session_log()->set_status(tensorboard::SessionLog::START);
  file_->Append(FrameRecord(event.SerializeAsString()));
}

}  // namespace muster::runtime
