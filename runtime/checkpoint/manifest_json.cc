// The text of a manifest. The writer is free to be short; the reader trusts nothing that the hash
// does not cover, and checks every field of what it does.
#include <array>
#include <nlohmann/json.hpp>
#include <set>

#include "absl/strings/numbers.h"
#include "kernels/base/error.h"
#include "kernels/base/hash.h"
#include "runtime/checkpoint/format.h"

namespace muster::runtime {
namespace {

using kernels::DType;
using kernels::Shape;
using nlohmann::json;

constexpr char kFormat[] = "muster checkpoint 1";
constexpr char kBefore[] = "{\"hash\":\"";
constexpr char kAfter[] = "\",\n";
constexpr size_t kHashAt = sizeof(kBefore) - 1;
constexpr size_t kBodyAt = kHashAt + 16 + sizeof(kAfter) - 1;
constexpr std::array kDTypes = {DType::kFloat32, DType::kBFloat16, DType::kFloat64,
                                DType::kInt32,   DType::kInt64,    DType::kUInt8};
// No dim of a real tensor is near it, and products of a dim and an element size cannot overflow.
constexpr int64_t kMaxElements = int64_t{1} << 56;

json Dims(const Shape& shape) {
  json dims = json::array();
  for (int dim = 0; dim < shape.rank(); ++dim) dims.push_back(shape[dim]);
  return dims;
}

json ToJson(const StoredPiece& piece) {
  return {{"tensor", piece.tensor},
          {"slice", {Dims(piece.range.slice_begin), Dims(piece.range.slice_size)}},
          {"elements", {piece.range.first, piece.range.count}},
          {"offset", piece.offset},
          {"hash", kernels::HexDigits(piece.hash)}};
}

json ToJson(const StoredShard& shard) {
  json pieces = json::array();
  for (const StoredPiece& piece : shard.pieces) pieces.push_back(ToJson(piece));
  return {{"file", shard.file},
          {"bytes", shard.bytes},
          {"header_bytes", shard.header_bytes},
          {"header_hash", kernels::HexDigits(shard.header_hash)},
          {"hash", kernels::HexDigits(shard.Hash())},
          {"pieces", std::move(pieces)}};
}

// Reads members of a JSON object and remembers the first one that is not as wanted.
class Fields {
 public:
  Fields(const json& object, std::string where, std::string* problem)
      : object_(object), where_(std::move(where)), problem_(problem) {
    if (!object.is_object()) Fail("", "an object");
  }
  const json& Get(const char* key, bool (json::*is)() const noexcept, const char* what) {
    static const json kNothing;
    const auto found = object_.is_object() ? object_.find(key) : object_.end();
    if (!object_.is_object() || found == object_.end() || !((*found).*is)()) {
      Fail(key, what);
      return kNothing;
    }
    return *found;
  }
  int64_t Count(const char* key) {
    const json& value = Get(key, &json::is_number_unsigned, "an unsigned integer");
    return ToCount(value, key);
  }
  std::string Text(const char* key) {
    const json& value = Get(key, &json::is_string, "text");
    return value.is_string() ? value.get<std::string>() : "";
  }
  uint64_t Hash(const char* key) {
    uint64_t hash = 0;
    const std::string text = Text(key);
    if (text.size() != 16 || !absl::SimpleHexAtoi(text, &hash)) Fail(key, "16 hexadecimal digits");
    return hash;
  }
  Shape Dims(const json& dims, const char* key) {
    Shape shape;
    if (!dims.is_array() || dims.size() > kernels::kMaxRank) {
      Fail(key, "a list of at most 5 dims");
      return shape;
    }
    std::array<int64_t, kernels::kMaxRank> sizes{};
    for (size_t i = 0; i < dims.size(); ++i) sizes[i] = ToCount(dims[i], key);
    switch (dims.size()) {
      case 0:
        return Shape{};
      case 1:
        return Shape{sizes[0]};
      case 2:
        return Shape{sizes[0], sizes[1]};
      case 3:
        return Shape{sizes[0], sizes[1], sizes[2]};
      case 4:
        return Shape{sizes[0], sizes[1], sizes[2], sizes[3]};
      default:
        return Shape{sizes[0], sizes[1], sizes[2], sizes[3], sizes[4]};
    }
  }
  // A list of two.
  std::array<json, 2> Pair(const char* key) {
    const json& value = Get(key, &json::is_array, "a list of two");
    if (value.size() != 2) {
      Fail(key, "a list of two");
      return {};
    }
    return {value[0], value[1]};
  }
  int64_t ToCount(const json& value, const char* key) {
    if (!value.is_number_unsigned() || value.get<uint64_t>() > uint64_t{kMaxElements}) {
      Fail(key, "an unsigned integer below 2^56");
      return 0;
    }
    return value.get<int64_t>();
  }
  void Fail(const std::string& key, const std::string& wanted) {
    if (problem_->empty()) *problem_ = where_ + ": wanted " + key + " to be " + wanted;
  }

 private:
  const json& object_;
  const std::string where_;
  std::string* problem_;
};

CheckpointFacts ParseFacts(const json& object, std::string* problem) {
  Fields fields(object, "facts", problem);
  CheckpointFacts facts;
  facts.step = fields.Count("step");
  facts.skipped_steps = fields.Count("skipped_steps");
  facts.samples = fields.Count("samples");
  facts.seed = fields.Hash("seed");
  facts.config_hash = fields.Hash("config_hash");
  facts.attempt = static_cast<int>(std::min<int64_t>(fields.Count("attempt"), 1 << 30));
  facts.mesh = fields.Text("mesh");
  facts.parent = fields.Text("parent");
  if (!facts.parent.empty() && StepOfName(facts.parent) < 0) fields.Fail("parent", "step-<n>");
  return facts;
}

StoredTensor ParseTensor(const json& object, const std::string& name, std::string* problem) {
  Fields fields(object, "tensor " + name.substr(0, 200), problem);
  StoredTensor tensor;
  const std::string dtype = fields.Text("dtype");
  const auto* known = std::find_if(kDTypes.begin(), kDTypes.end(),
                                   [&](DType each) { return kernels::Name(each) == dtype; });
  if (known == kDTypes.end()) {
    fields.Fail("dtype", "a known one");
  } else {
    tensor.dtype = *known;
  }
  tensor.shape = fields.Dims(fields.Get("shape", &json::is_array, "a list"), "shape");
  int64_t elements = 1;
  for (int dim = 0; dim < tensor.shape.rank(); ++dim) {
    if (__builtin_mul_overflow(elements, tensor.shape[dim], &elements) || elements > kMaxElements) {
      fields.Fail("shape", "of fewer than 2^56 elements");
      tensor.shape = {};
      elements = 1;
    }
  }
  return tensor;
}

StoredPiece ParsePiece(const json& object, const std::string& file, const Manifest& manifest,
                       int64_t* end, std::string* problem) {
  Fields fields(object, "a piece in " + file, problem);
  StoredPiece piece;
  piece.tensor = fields.Text("tensor");
  const auto tensor = manifest.tensors.find(piece.tensor);
  if (tensor == manifest.tensors.end()) {
    fields.Fail("tensor", "one of the manifest's, not " + piece.tensor.substr(0, 200));
    return piece;
  }
  const auto [begin, size] = fields.Pair("slice");
  const auto [first, count] = fields.Pair("elements");
  piece.range = {tensor->second.shape, fields.Dims(begin, "slice"), fields.Dims(size, "slice"),
                 fields.ToCount(first, "elements"), fields.ToCount(count, "elements")};
  piece.offset = fields.Count("offset");
  piece.hash = fields.Hash("hash");
  if (!problem->empty()) return piece;
  const std::string broken = piece.range.Problem();
  if (!broken.empty()) fields.Fail("elements", "within the tensor, but " + broken);
  if (piece.offset != *end) fields.Fail("offset", "the end of the piece before");
  *end += piece.range.count * kernels::SizeOf(tensor->second.dtype);
  return piece;
}

StoredShard ParseShard(const json& object, const Manifest& manifest, std::string* problem) {
  Fields fields(object, "a shard", problem);
  StoredShard shard;
  shard.file = fields.Text("file");
  if (!IsBasename(shard.file) || shard.file == kManifestName) {
    fields.Fail("file", "a basename in the checkpoint's directory");
  }
  shard.bytes = fields.Count("bytes");
  shard.header_bytes = fields.Count("header_bytes");
  shard.header_hash = fields.Hash("header_hash");
  int64_t end = shard.header_bytes;
  for (const json& piece : fields.Get("pieces", &json::is_array, "a list")) {
    shard.pieces.push_back(ParsePiece(piece, shard.file, manifest, &end, problem));
    if (!problem->empty()) return shard;
  }
  if (end != shard.bytes) fields.Fail("bytes", "the end of its last piece");
  if (fields.Hash("hash") != shard.Hash()) fields.Fail("hash", "that of header and pieces");
  return shard;
}

// `path` and the problem as an error.
absl::Status Damaged(const std::string& path, const std::string& problem) {
  return absl::DataLossError(path + " is no valid manifest: " + problem);
}

}  // namespace

std::string ManifestText(const Manifest& manifest) {
  const CheckpointFacts& facts = manifest.facts;
  json root = {{"format", kFormat},
               {"facts",
                {{"step", facts.step},
                 {"skipped_steps", facts.skipped_steps},
                 {"samples", facts.samples},
                 {"seed", kernels::HexDigits(facts.seed)},
                 {"config_hash", kernels::HexDigits(facts.config_hash)},
                 {"attempt", facts.attempt},
                 {"mesh", facts.mesh},
                 {"parent", facts.parent}}}};
  root["tensors"] = json::object();
  for (const auto& [name, tensor] : manifest.tensors) {
    root["tensors"][name] = {{"dtype", kernels::Name(tensor.dtype)}, {"shape", Dims(tensor.shape)}};
  }
  root["shards"] = json::array();
  for (const StoredShard& shard : manifest.shards) root["shards"].push_back(ToJson(shard));
  const std::string body = root.dump(0).substr(1) + "\n";
  return kBefore + kernels::HexDigits(kernels::Hash64(body)) + kAfter + body;
}

absl::StatusOr<Manifest> ParseManifest(const std::string& text, const std::string& path) {
  if (text.size() <= kBodyAt || text.compare(0, kHashAt, kBefore) != 0 ||
      text.compare(kHashAt + 16, sizeof(kAfter) - 1, kAfter) != 0) {
    return Damaged(path, "wanted it to begin with its hash");
  }
  const std::string body = text.substr(kBodyAt);
  const std::string wanted = text.substr(kHashAt, 16),
                    found = kernels::HexDigits(kernels::Hash64(body));
  if (wanted != found) return Damaged(path, "wanted hash " + wanted + ", found " + found);
  const json root = json::parse("{" + body, nullptr, /*allow_exceptions=*/false);
  if (!root.is_object()) return Damaged(path, "it is no JSON object");

  std::string problem;
  Fields fields(root, "manifest", &problem);
  if (fields.Text("format") != kFormat) fields.Fail("format", kFormat);
  Manifest manifest;
  manifest.facts = ParseFacts(fields.Get("facts", &json::is_object, "an object"), &problem);
  const json& tensors = fields.Get("tensors", &json::is_object, "an object");
  for (const auto& [name, tensor] : tensors.items()) {
    manifest.tensors[name] = ParseTensor(tensor, name, &problem);
  }
  std::set<std::string> files;
  for (const json& shard : fields.Get("shards", &json::is_array, "a list")) {
    if (!problem.empty()) break;
    manifest.shards.push_back(ParseShard(shard, manifest, &problem));
    const std::string& file = manifest.shards.back().file;
    if (!files.insert(file).second) fields.Fail("shards", "different files, but two are " + file);
  }
  if (!problem.empty()) return Damaged(path, problem);
  return manifest;
}

}  // namespace muster::runtime
