#include "runtime/checkpoint/safetensors.h"

#include <algorithm>
#include <cstring>
#include <nlohmann/json.hpp>
#include <set>

#include "kernels/base/error.h"
#include "runtime/job/atomic_file.h"

namespace muster::runtime {
namespace {

using kernels::DType;
using nlohmann::json;

constexpr uint64_t kMaxHeaderBytes = 100'000'000;  // the format's own bound
constexpr uint64_t kLengthBytes = 8;               // of the header, in front of it
constexpr std::pair<const char*, DType> kDTypes[] = {
    {"F32", DType::kFloat32}, {"BF16", DType::kBFloat16}, {"F64", DType::kFloat64},
    {"I32", DType::kInt32},   {"I64", DType::kInt64},     {"U8", DType::kUInt8}};

absl::Status Invalid(const std::string& path, const std::string& what) {
  return absl::DataLossError(path + " is no valid safetensors file: " + what);
}

// A SAX pass first: nlohmann's parser keeps the last of duplicate keys, the format forbids them.
class DuplicateKeyFinder : public nlohmann::json_sax<json> {
 public:
  bool null() override { return true; }
  bool boolean(bool) override { return true; }
  bool number_integer(number_integer_t) override { return true; }
  bool number_unsigned(number_unsigned_t) override { return true; }
  bool number_float(number_float_t, const string_t&) override { return true; }
  bool string(string_t&) override { return true; }
  bool binary(binary_t&) override { return true; }
  bool start_object(std::size_t) override {
    keys_.emplace_back();
    return keys_.size() <= kMaxDepth;
  }
  bool end_object() override {
    keys_.pop_back();
    return true;
  }
  bool start_array(std::size_t) override { return ++arrays_ <= 1; }
  bool end_array() override {
    --arrays_;
    return true;
  }
  bool key(string_t& name) override {
    if (keys_.back().insert(name).second) return true;
    duplicate = name;
    return false;
  }
  bool parse_error(std::size_t, const std::string&, const nlohmann::detail::exception&) override {
    return false;
  }
  std::string duplicate;

 private:
  static constexpr size_t kMaxDepth = 2;     // header -> tensor
  std::vector<std::set<std::string>> keys_;  // of the open objects
  int arrays_ = 0;
};

// The value of a tensor's header entry; false if any rule is broken, with the reason.
bool ParseEntry(const json& value, uint64_t data_bytes, SafetensorsEntry* entry, uint64_t* begin,
                std::string* reason) {
  if (!value.is_object() || value.size() != 3 || !value.contains("dtype") ||
      !value.contains("shape") || !value.contains("data_offsets") || !value["dtype"].is_string() ||
      !value["shape"].is_array() || !value["data_offsets"].is_array() ||
      value["data_offsets"].size() != 2) {
    *reason = "wanted dtype, shape and data_offsets, found " + value.dump().substr(0, 200);
    return false;
  }
  const std::string dtype = value["dtype"];
  const auto* known = std::find_if(std::begin(kDTypes), std::end(kDTypes),
                                   [&](const auto& pair) { return dtype == pair.first; });
  if (known == std::end(kDTypes)) {
    *reason = "dtype " + dtype.substr(0, 40) + " is not supported (F32, BF16, F64, I32, I64, U8)";
    return false;
  }
  entry->dtype = known->second;
  uint64_t bytes = static_cast<uint64_t>(kernels::SizeOf(entry->dtype));
  for (const json& dim : value["shape"]) {
    if (!dim.is_number_unsigned()) {
      *reason = "a dim is no unsigned integer";
      return false;
    }
    const uint64_t size = dim;
    if (size > (uint64_t{1} << 62) || __builtin_mul_overflow(bytes, size, &bytes)) {
      *reason = "its shape overflows";
      return false;
    }
    entry->shape.push_back(static_cast<int64_t>(size));
  }
  const json &first = value["data_offsets"][0], &last = value["data_offsets"][1];
  if (!first.is_number_unsigned() || !last.is_number_unsigned()) {
    *reason = "data_offsets are no unsigned integers";
    return false;
  }
  const uint64_t end = last;
  *begin = first;
  if (*begin > end || end > data_bytes || end - *begin != bytes) {
    *reason = "wanted " + std::to_string(bytes) + " bytes within " + std::to_string(data_bytes) +
              ", found offsets [" + std::to_string(*begin) + ", " + std::to_string(end) + ")";
    return false;
  }
  entry->bytes = static_cast<int64_t>(bytes);
  return true;
}

}  // namespace

absl::StatusOr<std::unique_ptr<SafetensorsFile>> SafetensorsFile::Open(const std::string& path) {
  ASSIGN_OR_RETURN(ReadFile opened, ReadFile::Open(path));
  std::unique_ptr<SafetensorsFile> file(new SafetensorsFile(std::move(opened)));
  RETURN_IF_ERROR(file->ReadHeader());
  return file;
}

absl::Status SafetensorsFile::ReadHeader() {
  const std::string& path = file_.path();
  const auto size = static_cast<uint64_t>(file_.size());
  if (size < kLengthBytes) return Invalid(path, "wanted at least 8 bytes");
  uint64_t header_bytes = 0;
  RETURN_IF_ERROR(file_.Read(0, &header_bytes, kLengthBytes));
  if (header_bytes > kMaxHeaderBytes || header_bytes > size - kLengthBytes) {
    return Invalid(path, "its header of " + std::to_string(header_bytes) +
                             " bytes exceeds the file or the format's bound");
  }
  std::string header(header_bytes, '\0');
  RETURN_IF_ERROR(file_.Read(kLengthBytes, header.data(), static_cast<int64_t>(header_bytes)));
  if (header.empty() || header[0] != '{') return Invalid(path, "its header is no JSON object");
  const uint64_t data_bytes = size - kLengthBytes - header_bytes;
  DuplicateKeyFinder duplicates;
  if (!json::sax_parse(header, &duplicates)) {
    return Invalid(path, duplicates.duplicate.empty()
                             ? "its header is no JSON of the wanted depth"
                             : "key " + duplicates.duplicate.substr(0, 80) + " stands twice");
  }
  const json root = json::parse(header, nullptr, /*allow_exceptions=*/false);
  std::vector<std::pair<uint64_t, uint64_t>> ranges;
  for (const auto& [name, value] : root.items()) {
    if (name == "__metadata__") {
      if (!value.is_object()) return Invalid(path, "__metadata__ is no object");
      for (const auto& [key, text] : value.items()) {
        if (!text.is_string()) return Invalid(path, "__metadata__ maps to something but text");
        metadata_[key] = text;
      }
      continue;
    }
    SafetensorsEntry entry;
    uint64_t begin = 0;
    std::string reason;
    if (!ParseEntry(value, data_bytes, &entry, &begin, &reason)) {
      return Invalid(path, "tensor " + name.substr(0, 200) + ": " + reason);
    }
    entry.offset = static_cast<int64_t>(kLengthBytes + header_bytes + begin);
    ranges.emplace_back(begin, begin + static_cast<uint64_t>(entry.bytes));
    tensors_[name] = std::move(entry);
  }
  std::sort(ranges.begin(), ranges.end());
  uint64_t covered = 0;
  for (const auto& [begin, end] : ranges) {
    if (begin != covered) return Invalid(path, "its tensors leave a gap or overlap");
    covered = end;
  }
  if (covered != data_bytes) {
    return Invalid(path, "its tensors cover " + std::to_string(covered) + " of " +
                             std::to_string(data_bytes) + " data bytes");
  }
  return absl::OkStatus();
}

std::string SafetensorsHeader(const std::map<std::string, SafetensorsEntry>& tensors,
                              const std::map<std::string, std::string>& metadata) {
  json root = json::object();
  if (!metadata.empty()) root["__metadata__"] = metadata;
  int64_t offset = 0;
  for (const auto& [name, entry] : tensors) {
    const auto* known = std::find_if(std::begin(kDTypes), std::end(kDTypes),
                                     [&](const auto& pair) { return pair.second == entry.dtype; });
    root[name] = {{"dtype", known->first},
                  {"shape", entry.shape},
                  {"data_offsets", {offset, offset + entry.bytes}}};
    offset += entry.bytes;
  }
  std::string header = root.dump();
  header.resize((header.size() + 7) / 8 * 8, ' ');
  const uint64_t header_bytes = header.size();
  return std::string(reinterpret_cast<const char*>(&header_bytes), 8) + header;
}

absl::Status WriteSafetensors(const std::string& path,
                              const std::map<std::string, SafetensorsEntry>& tensors,
                              const std::map<std::string, std::string>& metadata) {
  const std::string header = SafetensorsHeader(tensors, metadata);
  ASSIGN_OR_RETURN(std::unique_ptr<AtomicFile> file, AtomicFile::Create(path));
  RETURN_IF_ERROR(file->Write(header.data(), header.size()));
  for (const auto& [name, entry] : tensors) {
    RETURN_IF_ERROR(file->Write(entry.data, static_cast<size_t>(entry.bytes)));
  }
  return file->Commit();
}

}  // namespace muster::runtime
