#include "runtime/input/synthetic_tokens.h"

#include <algorithm>
#include <array>
#include <bit>
#include <string>

#include "kernels/base/rng.h"

namespace muster::runtime {
namespace {

constexpr int kMaxStates = 512;
constexpr int kSuccessors = 4;

// 0, 1, 2, 3 with probabilities 1/2, 1/4, 1/8, 1/8.
int ChooseSuccessor(uint32_t bits) { return std::min(std::countl_one(bits), kSuccessors - 1); }

}  // namespace

int SyntheticStates(int vocab_size) { return std::min(vocab_size, kMaxStates); }

std::vector<int32_t> MakeSyntheticTokens(int64_t num_tokens, int vocab_size, uint64_t seed,
                                         int walk) {
  const size_t states = static_cast<size_t>(SyntheticStates(vocab_size));
  const kernels::PhiloxKey ids = kernels::MakePhiloxKey(seed, "synthetic tokens' ids");
  std::vector<int32_t> token_of(states);
  std::array<std::vector<uint32_t>, kSuccessors> successor;
  for (size_t state = 0; state < states; ++state) {
    token_of[state] =
        static_cast<int32_t>(kernels::PermuteIndex(ids, state, static_cast<uint64_t>(vocab_size)));
  }
  for (int choice = 0; choice < kSuccessors; ++choice) {
    const kernels::PhiloxKey key =
        kernels::MakePhiloxKey(seed, "synthetic successor " + std::to_string(choice));
    for (size_t state = 0; state < states; ++state) {
      successor[static_cast<size_t>(choice)].push_back(
          static_cast<uint32_t>(kernels::PermuteIndex(key, state, states)));
    }
  }
  const kernels::PhiloxKey steps =
      kernels::MakePhiloxKey(seed, "synthetic walk " + std::to_string(walk));
  std::vector<int32_t> tokens(static_cast<size_t>(num_tokens));
  size_t state = kernels::Philox(steps, 0).v[0] % states;
  for (size_t i = 0; i < tokens.size(); ++i) {
    tokens[i] = token_of[state];
    const kernels::PhiloxBlock block = kernels::Philox(steps, 1 + i / 4);
    state = successor[static_cast<size_t>(ChooseSuccessor(block.v[i % 4]))][state];
  }
  return tokens;
}

}  // namespace muster::runtime
