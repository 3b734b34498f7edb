#pragma once
// Takes a ledger record's payload apart: the reading half of RecordBuilder.
#include <cstdint>
#include <cstring>
#include <string>
#include <string_view>

namespace muster::runtime {

// Reads fields off the front of a payload; once it runs dry, ok() is false and values are zero.
class RecordFields {
 public:
  explicit RecordFields(std::string_view payload) : rest_(payload) {}
  template <typename T>
  T Take() {
    T value{};
    if (rest_.size() < sizeof(T)) {
      ok_ = false;
      return value;
    }
    std::memcpy(&value, rest_.data(), sizeof(T));
    rest_.remove_prefix(sizeof(T));
    return value;
  }
  // Host names and labels are printed: bytes that are not printable ASCII become '?'.
  std::string TakeText() {
    const size_t size = Take<uint8_t>();
    if (!ok_ || rest_.size() < size) {
      ok_ = false;
      return "";
    }
    std::string text(rest_.substr(0, size));
    rest_.remove_prefix(size);
    for (char& c : text) {
      if (c < ' ' || c > '~') c = '?';
    }
    return text;
  }
  bool ok() const { return ok_; }
  bool empty() const { return rest_.empty(); }

 private:
  std::string_view rest_;
  bool ok_ = true;
};

}  // namespace muster::runtime
