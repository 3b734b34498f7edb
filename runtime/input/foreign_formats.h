#pragma once
// Token files of other trainers, read in place.
//
// Megatron-LM's indexed data set is a pair: <prefix>.bin holds the ids of all sequences one after
// another; <prefix>.idx holds, little-endian: magic "MMIDIDX\0\0", u64 version 1, u8 code of the
// ids' type, u64 number of sequences s, u64 number of document bounds d, s x i32 lengths, s x i64
// byte offsets, d x i64 bounds, and s x i8 modes for multimodal data. Sequences are read as one
// stream, which needs them to lie in order without gaps.
//
// llm.c's .bin holds 256 x i32: magic, version, number of tokens, zeros; then the ids. Magic
// 20240520 with version 1 has uint16 ids (GPT-2), 20240801 with version 7 uint32 ids (Llama 3).
#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "runtime/input/token_source.h"
#include "runtime/job/mapped_file.h"

namespace muster::runtime {

// The prefix of an existing .bin/.idx pair that `path` names (as prefix, .bin or .idx), or "".
// A .bin counts only if its .idx has Megatron's magic.
std::string MegatronPrefix(const std::string& path);
// Errors: a magic, version or type that is not known; sizes that disagree; sequences out of order.
absl::StatusOr<std::unique_ptr<TokenSource>> OpenMegatron(const std::string& prefix);

bool IsLlmcFile(const MappedFile& file);
absl::StatusOr<std::unique_ptr<TokenSource>> OpenLlmcFile(MappedFile file);

}  // namespace muster::runtime
