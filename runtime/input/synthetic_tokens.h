#pragma once
// Tokens of a seeded Markov chain: data for tests and first steps that needs no file, is equal on
// all ranks, and can be learnt. Up to 512 states, each a token id spread over the vocabulary; from
// each, four successors with probabilities 1/2, 1/4, 1/8, 1/8. Each of the four maps permutes the
// states, so that in the long run all are equally likely. A model that knows token frequencies only
// pays ln(states) nats a token; one that knows the chain pays at most 1.75 ln 2 = 1.213.
#include <cstdint>
#include <vector>

namespace muster::runtime {

int SyntheticStates(int vocab_size);

// `num_tokens` steps of the chain. `seed` chooses the chain, (seed, walk) the walk through it.
std::vector<int32_t> MakeSyntheticTokens(int64_t num_tokens, int vocab_size, uint64_t seed,
                                         int walk);

}  // namespace muster::runtime
