#pragma once
// Token ids of one integer type, contiguous in memory: what every token source is once its format
// has been understood.
#include <cstdint>
#include <memory>
#include <optional>
#include <vector>

#include "absl/status/status.h"
#include "runtime/input/token_source.h"
#include "runtime/job/mapped_file.h"

namespace muster::runtime {

enum class TokenType : uint8_t { kUInt8, kInt16, kUInt16, kInt32, kUInt32, kInt64 };
int BytesOf(TokenType type);
const char* Name(TokenType type);

// A source over the part of a mapped file that holds the tokens. CHECKs that they lie inside it.
// `facts.element` is filled in.
std::unique_ptr<TokenSource> MakeMappedTokens(MappedFile file, size_t offset, TokenType type,
                                              TokenFacts facts);
// A source over tokens in memory. `facts.element` and `facts.num_tokens` are filled in.
std::unique_ptr<TokenSource> MakeTokensInMemory(std::vector<int32_t> tokens, TokenFacts facts,
                                                std::string name);

}  // namespace muster::runtime
