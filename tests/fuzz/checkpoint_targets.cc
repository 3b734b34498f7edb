// safetensors files and checkpoint manifests.
#include "kernels/base/error.h"
#include "kernels/base/hash.h"
#include "runtime/checkpoint/format.h"
#include "runtime/checkpoint/safetensors.h"
#include "tests/fuzz/target.h"

namespace muster::fuzz {

int Safetensors(std::string_view bytes) {
  const auto file = runtime::SafetensorsFile::Open(FileOf("weights.safetensors", bytes));
  if (!file.ok()) return 0;
  // What was accepted can be read to its last byte, and lies inside the file.
  unsigned sum = 0;
  int64_t data_bytes = 0;
  for (const auto& [name, entry] : (*file)->tensors()) {
    std::string data(static_cast<size_t>(entry.bytes), '\0');
    MUSTER_CHECK_OK((*file)->Read(entry, 0, data.data(), entry.bytes));
    for (const char byte : data) sum += static_cast<unsigned char>(byte);
    data_bytes += entry.bytes;
  }
  MUSTER_CHECK(data_bytes <= static_cast<int64_t>(bytes.size())) << sum;
  return 0;
}

// The first byte says whether the bytes are a whole manifest, or a body whose hash is put in front:
// no mutation would guess a hash.
int Manifest(std::string_view bytes) {
  if (bytes.empty()) return 0;
  std::string text(bytes.substr(1));
  if (bytes[0] % 2 == 1) {
    text = "{\"hash\":\"" + kernels::HexDigits(kernels::Hash64(text)) + "\",\n" + text;
  }
  const auto manifest = runtime::ParseManifest(text, "fuzz");
  if (!manifest.ok()) return 0;
  // What was accepted is written and read again to the same text.
  const std::string again = runtime::ManifestText(*manifest);
  const auto second = runtime::ParseManifest(again, "fuzz");
  MUSTER_CHECK_OK(second.status());
  MUSTER_CHECK(runtime::ManifestText(*second) == again);
  return 0;
}

}  // namespace muster::fuzz
