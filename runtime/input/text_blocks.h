#pragma once
// A text cut into blocks of whole lines, every n-th of which is set aside for validation: blocks,
// not lines, so that a model cannot guess a validation line from its neighbours in training.
#include <cstdint>
#include <string_view>

namespace muster::runtime {

struct TextSplit {
  int64_t block_bytes = 1 << 16;  // a block ends with the first line that reaches this
  int validation_every = 20;      // block i is for validation if i mod n is n - 1
  bool IsValidation(int64_t block) const {
    return block % validation_every == validation_every - 1;
  }
};

// Blocks small enough for a text of `text_bytes` to have ten for validation, within 64 bytes and
// 64 KiB.
TextSplit SplitFor(int64_t text_bytes, int validation_every);

// Takes the next block off the front of `text`. A line that goes on for 4 blocks is cut, between
// two characters.
std::string_view TakeBlock(const TextSplit& split, std::string_view* text);

// Takes the next line off the front of `block`, without its line end; lines of more than
// `max_bytes` are cut, between two characters.
std::string_view TakeLine(size_t max_bytes, std::string_view* block);

}  // namespace muster::runtime
