#pragma once
// Writes scalars as a TensorBoard event file. An event is a serialised tensorboard::Event in the
// framing of TFRecord: u64 length, masked CRC of the length, the bytes, masked CRC of the bytes
// (little-endian). Readers who follow the file see whole events (runtime/job/append_file.h).
#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"
#include "runtime/job/append_file.h"

namespace muster::runtime {

// CRC-32C (Castagnoli, RFC 3720 appendix B.4) of the bytes; "123456789" gives 0xE3069283.
uint32_t Crc32c(std::string_view bytes);
// TFRecord's masking: a CRC stored beside the data that it covers must not be a plain CRC of it.
uint32_t MaskedCrc32c(std::string_view bytes);
std::string FrameRecord(std::string_view payload);

class TensorBoardWriter {
 public:
  using Scalars = std::vector<std::pair<std::string, double>>;  // tag, value

  // Creates "<directory>/events.out.tfevents.<seconds>.<host>.<pid>". Errors: it cannot be created.
  static absl::StatusOr<std::unique_ptr<TensorBoardWriter>> Create(const std::string& directory);

  // One event with all scalars of a step; wall_seconds: since 1970. Values are stored as float.
  void Write(int64_t step, double wall_seconds, const Scalars& scalars);
  // Readers forget what they had of this step and later ones: a restarted run does them again.
  void BeginAgain(int64_t step, double wall_seconds);
  const std::string& path() const { return file_->path(); }

 private:
  explicit TensorBoardWriter(std::unique_ptr<AppendFile> file) : file_(std::move(file)) {}
  const std::unique_ptr<AppendFile> file_;
};

}  // namespace muster::runtime
