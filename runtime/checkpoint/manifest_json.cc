// The text of a manifest. The writer is free to be short; the reader trusts nothing that the hash
// does not cover, and checks every field of what it does.
#include <array>
#include <nlohmann/json.hpp>
#include <set>
#include <utility>

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

// Without what the tensor has to say: see Settle.
StoredPiece ParsePiece(const json& object, std::string* problem) {
  Fields fields(object, "a piece", problem);
  StoredPiece piece;
  piece.tensor = fields.Text("tensor");
  const auto [begin, size] = fields.Pair("slice");
  const auto [first, count] = fields.Pair("elements");
  piece.range = {kernels::Shape{}, fields.Dims(begin, "slice"), fields.Dims(size, "slice"),
                 fields.ToCount(first, "elements"), fields.ToCount(count, "elements")};
  piece.offset = fields.Count("offset");
  piece.hash = fields.Hash("hash");
  return piece;
}

// `pieces` have been taken out of the object.
StoredShard ParseShard(const json& object, std::vector<StoredPiece> pieces, std::string* problem) {
  Fields fields(object, "a shard", problem);
  StoredShard shard;
  shard.pieces = std::move(pieces);
  shard.file = fields.Text("file");
  if (!IsBasename(shard.file) || shard.file == kManifestName) {
    fields.Fail("file", "a basename in the checkpoint's directory");
  }
  shard.bytes = fields.Count("bytes");
  shard.header_bytes = fields.Count("header_bytes");
  shard.header_hash = fields.Hash("header_hash");
  if (!fields.Get("pieces", &json::is_array, "a list").empty()) fields.Fail("pieces", "objects");
  if (fields.Hash("hash") != shard.Hash()) fields.Fail("hash", "that of header and pieces");
  return shard;
}

// A manifest may be large, and its JSON many times as large in memory. So each tensor, piece and
// shard is read and dropped as soon as its text ends.
class PartReader {
 public:
  PartReader(Manifest* manifest, std::string* problem) : manifest_(*manifest), problem_(*problem) {}

  // nlohmann's parser_callback_t; false: the value is dropped.
  bool Keep(int depth, json::parse_event_t event, const json& value) {
    using Event = json::parse_event_t;
    if (depth > kMaxDepth || ++kept_ > kMaxKept) Fail("no manifest is as deep, or has such parts");
    if (!problem_.empty()) return false;
    if (event == Event::key && depth >= 1 && depth <= 3) {
      keys_[static_cast<size_t>(depth)] = value.get<std::string>();
    }
    return event != Event::object_end || !Take(depth, value);
  }

 private:
  static constexpr int kMaxDepth = 8, kMaxKept = 1000;  // about 30 events are of a piece

  // An object that has ended; its depth and the keys above it say what it is.
  bool Take(int depth, const json& object) {
    const auto& [unused, section, name, part] = keys_;
    if (depth == 2 && section == "tensors") {
      manifest_.tensors[name] = ParseTensor(object, name, &problem_);
    } else if (depth == 2 && section == "shards") {
      manifest_.shards.push_back(ParseShard(object, std::exchange(pieces_, {}), &problem_));
    } else if (depth == 4 && section == "shards" && part == "pieces") {
      pieces_.push_back(ParsePiece(object, &problem_));
    } else {
      return false;
    }
    kept_ = 0;
    return true;
  }
  void Fail(const char* problem) {
    if (problem_.empty()) problem_ = problem;
  }

  Manifest& manifest_;
  std::string& problem_;
  std::array<std::string, 4> keys_;  // that are open, by depth
  std::vector<StoredPiece> pieces_;  // of the shard under way
  int kept_ = 0;                     // events since the last part was dropped
};

// Gives each piece its tensor's shape. Returns what is wrong: a piece outside its tensor or file, a
// file named twice.
std::string Settle(Manifest* manifest) {
  std::set<std::string> files;
  for (StoredShard& shard : manifest->shards) {
    if (!files.insert(shard.file).second) {
      return "wanted different files, but two shards are " + shard.file;
    }
    int64_t end = shard.header_bytes;
    for (StoredPiece& piece : shard.pieces) {
      const std::string where = "a piece in " + shard.file + ": wanted ";
      const auto tensor = manifest->tensors.find(piece.tensor);
      if (tensor == manifest->tensors.end()) {
        return where + "a tensor of the manifest, found " + piece.tensor.substr(0, 200);
      }
      piece.range.global_shape = tensor->second.shape;
      const std::string broken = piece.range.Problem();
      if (!broken.empty()) return where + "elements within the tensor, but " + broken;
      if (piece.offset != end) return where + "offset to be the end of the piece before";
      end += piece.range.count * kernels::SizeOf(tensor->second.dtype);
    }
    if (end != shard.bytes) return shard.file + ": wanted bytes to be the end of its last piece";
  }
  return "";
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
  const std::string wanted = text.substr(kHashAt, 16),
                    found = kernels::HexDigits(
                        kernels::Hash64(text.data() + kBodyAt, text.size() - kBodyAt));
  if (wanted != found) return Damaged(path, "wanted hash " + wanted + ", found " + found);
  std::string problem;
  Manifest manifest;
  PartReader parts(&manifest, &problem);
  const json root = json::parse(
      text.begin(), text.end(),
      [&parts](int depth, json::parse_event_t event, json& value) {
        return parts.Keep(depth, event, value);
      },
      /*allow_exceptions=*/false);
  if (!problem.empty()) return Damaged(path, problem);
  if (!root.is_object()) return Damaged(path, "it is no JSON object");
  Fields fields(root, "manifest", &problem);
  if (fields.Text("format") != kFormat) fields.Fail("format", kFormat);
  manifest.facts = ParseFacts(fields.Get("facts", &json::is_object, "an object"), &problem);
  const json& tensors = fields.Get("tensors", &json::is_object, "an object");
  if (!tensors.empty()) fields.Fail("tensors", "objects by name");
  const json& shards = fields.Get("shards", &json::is_array, "a list");
  if (!shards.empty()) fields.Fail("shards", "objects");
  if (problem.empty()) problem = Settle(&manifest);
  if (!problem.empty()) return Damaged(path, problem);
  return manifest;
}

}  // namespace muster::runtime
