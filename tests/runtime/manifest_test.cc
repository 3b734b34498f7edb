// A manifest is read as it comes, part by part, whatever stands in it.
#include <gtest/gtest.h>

#include "kernels/base/hash.h"
#include "runtime/checkpoint/format.h"

namespace muster::runtime {
namespace {

std::string WithHash(const std::string& body) {
  return "{\"hash\":\"" + kernels::HexDigits(kernels::Hash64(body)) + "\",\n" + body;
}

// `pieces` of one tensor in each of two shards.
Manifest Example(int64_t pieces) {
  Manifest manifest{.facts = {.step = 7, .seed = 5, .attempt = 2, .mesh = "dp2"}};
  const kernels::Shape shape{2 * pieces, 3};
  manifest.tensors["weight/a"] = {kernels::DType::kFloat32, shape};
  manifest.tensors["weight/empty"] = {kernels::DType::kBFloat16, {0}};
  for (int s = 0; s < 2; ++s) {
    StoredShard shard{.file = "shard-" + std::to_string(s), .bytes = 64, .header_bytes = 64};
    for (int64_t i = 0; i < pieces; ++i) {
      shard.pieces.push_back({"weight/a",
                              {shape, {s * pieces + i, 0}, {1, 3}, 0, 3},
                              shard.bytes,
                              static_cast<uint64_t>(i)});
      shard.bytes += 12;
    }
    manifest.shards.push_back(shard);
  }
  return manifest;
}

std::string ProblemOf(const std::string& text) {
  const auto manifest = ParseManifest(text, "m");
  EXPECT_TRUE(manifest.ok() || absl::IsDataLoss(manifest.status())) << manifest.status();
  return manifest.ok() ? "" : std::string(manifest.status().message());
}

// The example's text with one place changed, and a hash that holds.
std::string Changed(const std::string& from, const std::string& to) {
  std::string body = ManifestText(Example(2)).substr(28);
  const size_t at = body.find(from);
  EXPECT_NE(at, std::string::npos) << from;
  return WithHash(body.replace(at, from.size(), to));
}

TEST(Manifest, WhatIsWrittenIsReadBackHoweverLongItIs) {
  for (const int64_t pieces : {0, 1, 20'000}) {
    const std::string text = ManifestText(Example(pieces));
    const auto manifest = ParseManifest(text, "m");
    ASSERT_TRUE(manifest.ok()) << manifest.status();
    EXPECT_EQ(manifest->shards.at(1).pieces.size(), static_cast<size_t>(pieces));
    EXPECT_EQ(ManifestText(*manifest), text);
  }
}

TEST(Manifest, AnyRuleThatIsBrokenIsNamed) {
  ASSERT_EQ(ProblemOf(Changed("\"dp2\"", "\"dp3\"")), "");
  const std::pair<std::string, std::pair<const char*, const char*>> rules[] = {
      {"tensor to be text", {"\"tensor\": \"weight/a\"", "\"tensor\":7"}},
      {"a tensor of the manifest, found weight/b",
       {"\"tensor\": \"weight/a\"", "\"tensor\":\"weight/b\""}},
      {"the end of the piece before", {"\"offset\": 64", "\"offset\":65"}},
      {"different files", {"shard-1", "shard-0"}},
      {"a basename", {"shard-1", "../shard"}},
      {"format", {"muster checkpoint 1", "muster checkpoint 2"}},
      {"a known one", {"\"fp32\"", "\"fp33\""}},
      {"step to be", {"\"step\": 7", "\"step\":-7"}},
  };
  for (const auto& [problem, change] : rules) {
    const std::string said = ProblemOf(Changed(change.first, change.second));
    EXPECT_NE(said.find(problem), std::string::npos) << problem << " not in: " << said;
  }
}

TEST(Manifest, PartsThatStandElsewhereAreNoParts) {
  const auto with = [](const std::string& tensors, const std::string& shards) {
    return ProblemOf(
        WithHash(R"("facts":{"step":1,"skipped_steps":0,"samples":0,"seed":"0000000000000000",)"
                 R"("config_hash":"0000000000000000","attempt":0,"mesh":"","parent":""},)"
                 R"("format":"muster checkpoint 1","shards":)" +
                 shards + R"(,"tensors":)" + tensors + "}"));
  };
  EXPECT_EQ(with("{}", "[]"), "");
  EXPECT_NE(with("[]", "[]").find("tensors"), std::string::npos);
  EXPECT_NE(with("{}", "{}").find("shards"), std::string::npos);
  EXPECT_NE(with("{\"a\":5}", "[]").find("tensors"), std::string::npos);
  EXPECT_NE(with("{}", "[5]").find("shards"), std::string::npos);
  const std::string shard =
      R"("file":"s","bytes":0,"header_bytes":0,"header_hash":"0000000000000000","hash":")" +
      kernels::HexDigits(StoredShard{}.Hash()) + "\"";
  EXPECT_EQ(with("{}", "[{" + shard + ",\"pieces\":[]}]"), "");
  EXPECT_NE(with("{}", "[{" + shard + ",\"pieces\":{}}]").find("pieces"), std::string::npos);
  EXPECT_NE(with("{}", "[{" + shard + ",\"pieces\":[1]}]").find("pieces"), std::string::npos);
}

// What is kept of the JSON at a time is bounded, however the bytes are spent.
TEST(Manifest, DeepOrEndlessPartsAreRefused) {
  std::string many = "[0";
  for (int i = 0; i < 100'000; ++i) many += ",0";
  for (const std::string& body :
       {"\"facts\":" + std::string(100'000, '[') + std::string(100'000, ']') + "}",
        "\"facts\":" + many + "]}"}) {
    EXPECT_NE(ProblemOf(WithHash(body)).find("no manifest is as deep"), std::string::npos);
  }
}

TEST(Manifest, OneThatReadersWouldRefuseIsNotWritten) {
  EXPECT_TRUE(CheckManifestBytes(kMaxManifestBytes).ok());
  const absl::Status refused = CheckManifestBytes(kMaxManifestBytes + 1);
  EXPECT_TRUE(absl::IsResourceExhausted(refused)) << refused;
  EXPECT_NE(refused.message().find("zero.level"), std::string::npos) << refused;
}

}  // namespace
}  // namespace muster::runtime
