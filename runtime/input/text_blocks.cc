#include "runtime/input/text_blocks.h"

#include <algorithm>

#include "runtime/input/utf8.h"

namespace muster::runtime {

TextSplit SplitFor(int64_t text_bytes, int validation_every) {
  TextSplit split;
  split.validation_every = validation_every;
  split.block_bytes = std::clamp<int64_t>(text_bytes / (10 * validation_every), 64, 1 << 16);
  return split;
}

std::string_view TakeBlock(const TextSplit& split, std::string_view* text) {
  const size_t least = static_cast<size_t>(split.block_bytes), most = 4 * least;
  size_t end = text->size();
  if (text->size() > least) {
    const size_t line_end = text->find('\n', least - 1);
    if (line_end != std::string_view::npos) end = line_end + 1;
  }
  if (end > most) end = Utf8Boundary(*text, most);
  const std::string_view block = text->substr(0, end);
  text->remove_prefix(end);
  return block;
}

std::string_view TakeLine(size_t max_bytes, std::string_view* block) {
  const size_t line_end = block->find('\n');
  const size_t length = std::min(line_end, block->size());
  if (length > max_bytes) {
    const size_t end = Utf8Boundary(*block, max_bytes);
    const std::string_view line = block->substr(0, end);
    block->remove_prefix(end);
    return line;
  }
  const std::string_view line = block->substr(0, length);
  block->remove_prefix(std::min(length + 1, block->size()));
  return line;
}

}  // namespace muster::runtime
