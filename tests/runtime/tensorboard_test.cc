#include "runtime/train/tensorboard.h"

#include <gtest/gtest.h>

#include <cstring>
#include <vector>

#include "runtime/train/event.pb.h"
#include "tests/support/runtime/scratch_directory.h"

namespace muster::runtime {
namespace {

uint64_t LittleEndian(const std::string& bytes, size_t at, size_t size) {
  uint64_t value = 0;
  for (size_t i = 0; i < size; ++i) {
    value |= uint64_t{static_cast<uint8_t>(bytes.at(at + i))} << (8 * i);
  }
  return value;
}

// The payloads of a record file; every checksum is checked.
std::vector<std::string> Unframe(const std::string& file) {
  std::vector<std::string> payloads;
  for (size_t at = 0; at < file.size();) {
    const size_t size = LittleEndian(file, at, 8);
    EXPECT_EQ(LittleEndian(file, at + 8, 4), MaskedCrc32c(file.substr(at, 8)));
    payloads.push_back(file.substr(at + 12, size));
    EXPECT_EQ(LittleEndian(file, at + 12 + size, 4), MaskedCrc32c(payloads.back()));
    at += size + 16;
  }
  return payloads;
}

TEST(TensorBoard, Crc32cMatchesPublishedVectors) {
  EXPECT_EQ(Crc32c("123456789"), 0xE3069283u);
  EXPECT_EQ(Crc32c(""), 0u);
  EXPECT_EQ(Crc32c(std::string(32, '\0')), 0x8A9136AAu);  // RFC 3720 B.4
  EXPECT_EQ(Crc32c(std::string(32, '\xff')), 0x62A8AB43u);
  std::string rising;
  for (int i = 0; i < 32; ++i) rising.push_back(static_cast<char>(i));
  EXPECT_EQ(Crc32c(rising), 0x46DD794Eu);
}

TEST(TensorBoard, MaskIsARotationAndAnOffset) {
  const uint32_t crc = 0xE3069283u;
  EXPECT_EQ(MaskedCrc32c("123456789"), ((crc >> 15) | (crc << 17)) + 0xa282ead8u);
}

TEST(TensorBoard, FileParsesBackToWhatWasWritten) {
  const ScratchDirectory scratch;
  std::string path;
  {
    auto writer = TensorBoardWriter::Create(scratch.path() + "/tensorboard");
    ASSERT_TRUE(writer.ok()) << writer.status();
    path = (*writer)->path();
    (*writer)->Write(1, 1000.5, {{"train/loss", 3.5}, {"speed/mfu", 0.25}});
    (*writer)->Write(2, 1001.5, {{"train/loss", 3.25}});
  }
  const std::vector<std::string> payloads = Unframe(ReadWhole(path));
  ASSERT_EQ(payloads.size(), 3u);
  tensorboard::Event event;
  ASSERT_TRUE(event.ParseFromString(payloads[0]));
  EXPECT_EQ(event.file_version(), "brain.Event:2");
  ASSERT_TRUE(event.ParseFromString(payloads[1]));
  EXPECT_EQ(event.step(), 1);
  EXPECT_EQ(event.wall_time(), 1000.5);
  ASSERT_EQ(event.summary().value_size(), 2);
  EXPECT_EQ(event.summary().value(0).tag(), "train/loss");
  EXPECT_EQ(event.summary().value(0).simple_value(), 3.5f);
  EXPECT_EQ(event.summary().value(1).tag(), "speed/mfu");
  ASSERT_TRUE(event.ParseFromString(payloads[2]));
  EXPECT_EQ(event.summary().value(0).simple_value(), 3.25f);
}

TEST(TensorBoard, WireBytesHaveTheFieldNumbersThatItsReaderKnows) {
  tensorboard::Event event;
  event.set_step(7);
  tensorboard::Summary::Value* value = event.mutable_summary()->add_value();
  value->set_tag("a");
  value->set_simple_value(1.0f);
  // step: field 2 varint; summary: 5; value: 1; tag: 1; simple_value: 2, four bytes.
  const char expected[] = "\x10\x07\x2a\x0a\x0a\x08\x0a\x01\x61\x15\x00\x00\x80\x3f";
  EXPECT_EQ(event.SerializeAsString(), std::string(expected, sizeof(expected) - 1));
}

}  // namespace
}  // namespace muster::runtime
