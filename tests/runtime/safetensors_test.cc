// The rules of the safetensors format, which a file from anywhere may break.
#include "runtime/checkpoint/safetensors.h"

#include <gtest/gtest.h>

#include <chrono>
#include <filesystem>

#include "tests/support/runtime/scratch_directory.h"

namespace muster::runtime {
namespace {

// A file of this header and 8 bytes of data.
std::string FileOf(const std::string& header) {
  const uint64_t size = header.size();
  return std::string(reinterpret_cast<const char*>(&size), 8) + header + "datadata";
}

constexpr char kTensor[] = R"("w":{"dtype":"F32","shape":[2],"data_offsets":[0,8]})";

absl::Status Open(const std::string& header) {
  const ScratchDirectory scratch;
  return SafetensorsFile::Open(scratch.Write("file.safetensors", FileOf(header))).status();
}

TEST(Safetensors, WhatIsWrittenIsReadBack) {
  const ScratchDirectory scratch;
  const std::vector<float> a = {1, 2, 3, 4, 5, 6}, b = {7};
  const std::string path = scratch.File("x.safetensors");
  ASSERT_TRUE(WriteSafetensors(path,
                               {{"a", {kernels::DType::kFloat32, {2, 3}, a.data(), 24}},
                                {"b", {kernels::DType::kFloat32, {1}, b.data(), 4}}},
                               {{"format", "muster"}})
                  .ok());
  const auto file = SafetensorsFile::Open(path);
  ASSERT_TRUE(file.ok()) << file.status();
  EXPECT_EQ((*file)->metadata().at("format"), "muster");
  const SafetensorsEntry& entry = (*file)->tensors().at("a");
  EXPECT_EQ(entry.shape, (std::vector<int64_t>{2, 3}));
  std::vector<float> read(2);
  ASSERT_TRUE((*file)->Read(entry, 12, read.data(), 8).ok());
  EXPECT_EQ(read, (std::vector<float>{4, 5}));
  std::filesystem::resize_file(path, std::filesystem::file_size(path) - 26);
  EXPECT_TRUE(absl::IsDataLoss((*file)->Read(entry, 0, read.data(), 8)));
}

TEST(Safetensors, MetadataIsAnObjectOfText) {
  EXPECT_TRUE(Open("{" + std::string(kTensor) + "}").ok());
  EXPECT_TRUE(Open(R"({"__metadata__":{"a":"b"},)" + std::string(kTensor) + "}").ok());
  EXPECT_TRUE(Open(R"({"__metadata__":{},)" + std::string(kTensor) + "}").ok());
  for (const char* metadata : {R"(["a"])", "7", "null", R"("a")", R"({"a":1})", R"({"a":null})"}) {
    const absl::Status status =
        Open(R"({"__metadata__":)" + std::string(metadata) + "," + kTensor + "}");
    EXPECT_TRUE(absl::IsDataLoss(status)) << metadata << ": " << status;
    EXPECT_NE(status.message().find("__metadata__"), std::string::npos) << status;
  }
}

TEST(Safetensors, AKeyThatStandsTwiceIsFoundAtAnyDepth) {
  const std::string tensor(kTensor);
  for (const std::string& header :
       {"{" + tensor + "," + tensor + "}", R"({"__metadata__":{"a":"b","a":"c"},)" + tensor + "}",
        std::string(R"({"w":{"dtype":"F32","dtype":"F32","shape":[2],"data_offsets":[0,8]}})")}) {
    const absl::Status status = Open(header);
    EXPECT_TRUE(absl::IsDataLoss(status)) << status;
    EXPECT_NE(status.message().find("stands twice"), std::string::npos) << status;
  }
  EXPECT_TRUE(Open(R"({"__metadata__":{"w":"x","dtype":"y"},)" + tensor + "}").ok());
}

// Two by two, 300,000 keys would be compared for minutes.
TEST(Safetensors, ManyKeysOfAnObjectAreLookedThroughOnce) {
  std::string header = R"({"__metadata__":{)";
  for (int i = 0; i < 300'000; ++i) header += "\"key-" + std::to_string(i) + "\":\"\",";
  header += R"("last":""},)" + std::string(kTensor) + "}";
  const auto begin = std::chrono::steady_clock::now();
  EXPECT_TRUE(Open(header).ok());
  EXPECT_LE(std::chrono::steady_clock::now() - begin, std::chrono::seconds(20));  // 1 s when calm
}

TEST(Safetensors, NoLinkIsFollowed) {
  const ScratchDirectory scratch;
  scratch.Write("file", FileOf("{" + std::string(kTensor) + "}"));
  std::filesystem::create_symlink(scratch.File("file"), scratch.File("link"));
  EXPECT_TRUE(SafetensorsFile::Open(scratch.File("file")).ok());
  EXPECT_TRUE(absl::IsDataLoss(SafetensorsFile::Open(scratch.File("link")).status()));
  EXPECT_TRUE(absl::IsNotFound(SafetensorsFile::Open(scratch.File("none")).status()));
}

}  // namespace
}  // namespace muster::runtime
