#pragma once
// English-like text made by rule, for tests of tokenizers and data preparation.
#include <random>
#include <string>

namespace muster::runtime {

// Lines of a few sentences of common words, at least `bytes` long, the same for the same seed.
inline std::string GeneratedText(size_t bytes, unsigned seed) {
  static constexpr const char* kWords[] = {
      "the",   "of",    "and",   "to",     "in",    "machine", "learning", "rank",  "tensor",
      "model", "loss",  "token", "expert", "batch", "train",   "step",     "group", "axis",
      "time",  "place", "river", "house",  "light", "never",   "always",   "small", "large",
      "green", "quick", "brown", "jumped", "over",  "lazy",    "dog",      "seven", "42"};
  constexpr size_t kNumWords = sizeof(kWords) / sizeof(kWords[0]);
  std::mt19937 random(seed);
  std::string text;
  while (text.size() < bytes) {
    for (unsigned sentence = 0; sentence < 1 + random() % 3; ++sentence) {
      for (unsigned word = 0; word < 4 + random() % 8; ++word) {
        // Some words are made up, so that there is always more to learn.
        std::string made = kWords[random() % kNumWords];
        if (random() % 6 == 0) made += kWords[random() % kNumWords];
        text += (word == 0 ? "" : " ") + made;
      }
      text += ". ";
    }
    text.back() = '\n';
  }
  return text;
}

}  // namespace muster::runtime
