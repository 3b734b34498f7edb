#pragma once
// Reads and writes safetensors files (Hugging Face's format: 8-byte little-endian header length, a
// JSON header, raw little-endian data). The reader takes a file for hostile: it checks the header's
// bound, names, dtypes, shape x dtype with overflow, and that the tensors cover the data without
// gap or overlap, before it hands out a byte. The writer writes a temporary beside the target,
// syncs it and renames it, so that a file that exists is whole.
#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "kernels/base/dtype.h"
#include "runtime/job/read_file.h"

namespace muster::runtime {

struct SafetensorsEntry {
  kernels::DType dtype = kernels::DType::kFloat32;  // F32, BF16, F64, I32, I64, U8
  std::vector<int64_t> shape;
  const void* data = nullptr;  // host memory, of one that is to be written
  int64_t bytes = 0;
  int64_t offset = 0;  // in the file, of one that is read
};

class SafetensorsFile {
 public:
  // Reads and validates the header. Errors name the file, the tensor and the broken rule.
  static absl::StatusOr<std::unique_ptr<SafetensorsFile>> Open(const std::string& path);

  // bytes [begin, begin + bytes) of the tensor. Errors: see ReadFile.
  absl::Status Read(const SafetensorsEntry& tensor, int64_t begin, void* out, int64_t bytes) const {
    return file_.Read(tensor.offset + begin, out, bytes);
  }
  const std::string& path() const { return file_.path(); }
  const std::map<std::string, SafetensorsEntry>& tensors() const { return tensors_; }
  const std::map<std::string, std::string>& metadata() const { return metadata_; }

 private:
  explicit SafetensorsFile(ReadFile file) : file_(std::move(file)) {}
  absl::Status ReadHeader();
  const ReadFile file_;
  std::map<std::string, SafetensorsEntry> tensors_;
  std::map<std::string, std::string> metadata_;
};

// The first bytes of a file that holds these tensors, in the order of their names: the length and
// the JSON header, padded so that the data starts 8-byte aligned.
std::string SafetensorsHeader(const std::map<std::string, SafetensorsEntry>& tensors,
                              const std::map<std::string, std::string>& metadata);

// Tensors are written in the order of their names. Errors: the file cannot be written; nothing is
// left behind then.
absl::Status WriteSafetensors(const std::string& path,
                              const std::map<std::string, SafetensorsEntry>& tensors,
                              const std::map<std::string, std::string>& metadata);

}  // namespace muster::runtime
