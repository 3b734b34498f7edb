#include "runtime/checkpoint/weights.h"

#include <cstdio>
#include <filesystem>
#include <map>
#include <nlohmann/json.hpp>
#include <set>

#include "kernels/base/error.h"
#include "kernels/device/memory.h"
#include "runtime/checkpoint/safetensors.h"
#include "runtime/job/atomic_file.h"

namespace muster::runtime {
namespace {

using kernels::TensorView;
using parallel::Axis;
using parallel::Parameter;

constexpr char kIndexName[] = "model.safetensors.index.json";

// A stored tensor and the memory of this rank that it fills or is filled from.
struct Piece {
  std::string name;
  TensorView tensor;
};

// An expert parameter [E, ...] is stored as E tensors: "a.experts.b" -> "a.experts.<e>.b".
std::vector<Piece> PiecesOf(const Parameter& parameter) {
  const std::string marker = ".experts.";
  const size_t at = parameter.global_name.find(marker);
  if (parameter.placement.replica_axis != parallel::Axis::kExpertData || at == std::string::npos) {
    return {{parameter.global_name, parameter.weight}};
  }
  std::vector<Piece> pieces;
  const kernels::Shape& slice = parameter.slice.size;
  for (int64_t e = 0; e < slice[0]; ++e) {
    const int64_t expert = parameter.slice.begin[0] + e;
    TensorView row = parameter.weight.Slice(0, e, e + 1);
    row = slice.rank() == 3 ? row.Reshape({slice[1], slice[2]}) : row.Reshape({slice[1]});
    pieces.push_back({parameter.global_name.substr(0, at + marker.size()) + std::to_string(expert) +
                          "." + parameter.global_name.substr(at + marker.size()),
                      row});
  }
  return pieces;
}

std::vector<int64_t> Dims(const kernels::Shape& shape) {
  std::vector<int64_t> dims;
  for (int d = 0; d < shape.rank(); ++d) dims.push_back(shape[d]);
  return dims;
}

// Host copies of the tensors that this rank writes.
absl::StatusOr<std::map<std::string, SafetensorsEntry>> CollectOwned(
    const parallel::ParameterList& parameters, const std::vector<NamedBuffer>& buffers,
    bool writes_buffers, kernels::StreamView compute, std::vector<kernels::DeviceBuffer>* memory) {
  std::vector<Piece> pieces;
  for (const Parameter& parameter : parameters) {
    if (parameters.mesh().Group(parameter.placement.replica_axis).rank() != 0) continue;
    for (Piece& piece : PiecesOf(parameter)) pieces.push_back(std::move(piece));
  }
  if (writes_buffers) {
    for (const NamedBuffer& buffer : buffers) pieces.push_back({buffer.global_name, buffer.tensor});
  }
  std::map<std::string, SafetensorsEntry> entries;
  for (const Piece& piece : pieces) {
    ASSIGN_OR_RETURN(kernels::DeviceBuffer host, kernels::DeviceBuffer::AllocateHost(
                                                     piece.tensor.device, piece.tensor.bytes()));
    kernels::CopyAsync(host.data(), piece.tensor.data, piece.tensor.bytes(), compute);
    entries[piece.name] = {piece.tensor.dtype, Dims(piece.tensor.shape), host.data(),
                           piece.tensor.bytes()};
    memory->push_back(std::move(host));
  }
  RETURN_IF_ERROR(compute.Synchronize());
  return entries;
}

// Ok on every rank, or the first rank's error on every rank.
absl::Status Agree(const absl::Status& mine, parallel::World& world) {
  ASSIGN_OR_RETURN(const std::vector<std::string> all,
                   world.GatherText(mine.ok() ? "" : mine.ToString()));
  RETURN_IF_ERROR(mine);
  for (size_t rank = 0; rank < all.size(); ++rank) {
    if (!all[rank].empty()) {
      return absl::AbortedError("rank " + std::to_string(rank) + " failed: " + all[rank]);
    }
  }
  return absl::OkStatus();
}

std::string FileName(size_t index, size_t count) {
  char name[64];
  std::snprintf(name, sizeof(name), "model-%05zu-of-%05zu.safetensors", index + 1, count);
  return name;
}

absl::Status CreateDirectory(const std::string& directory) {
  std::error_code error;
  if (!std::filesystem::create_directory(directory, error)) {
    return absl::FailedPreconditionError("cannot create " + directory + ": " +
                                         (error ? error.message() : "it exists"));
  }
  return absl::OkStatus();
}

absl::Status PublishIndex(const std::vector<std::string>& lists,
                          const std::vector<std::string>& files, const std::string& temporary,
                          const std::string& directory) {
  nlohmann::json map = nlohmann::json::object();
  int64_t total_bytes = 0;
  for (size_t rank = 0; rank < lists.size(); ++rank) {
    const nlohmann::json list = nlohmann::json::parse(lists[rank]);
    for (const auto& [name, bytes] : list.items()) {
      map[name] = files[rank];
      total_bytes += bytes.get<int64_t>();
    }
  }
  const nlohmann::json index = {{"metadata", {{"total_size", total_bytes}}}, {"weight_map", map}};
  RETURN_IF_ERROR(WriteFileAtomically(temporary + "/" + kIndexName, index.dump(1) + "\n"));
  std::error_code error;
  std::filesystem::rename(temporary, directory, error);
  return error ? absl::UnavailableError("renaming to " + directory + ": " + error.message())
               : absl::OkStatus();
}

}  // namespace

absl::Status SaveWeights(const std::string& directory, const parallel::ParameterList& parameters,
                         const std::vector<NamedBuffer>& buffers, parallel::World& world,
                         kernels::StreamView compute) {
  const std::string temporary = directory + ".partial";
  absl::Status status;
  if (world.rank() == 0) {
    if (std::filesystem::exists(directory)) {
      status = absl::AlreadyExistsError(directory + " exists");
    } else {
      std::filesystem::remove_all(temporary);  // of an attempt that died here
      status = CreateDirectory(temporary);
    }
  }
  RETURN_IF_ERROR(Agree(status, world));

  std::vector<kernels::DeviceBuffer> memory;
  ASSIGN_OR_RETURN(const auto entries,
                   CollectOwned(parameters, buffers, world.rank() == 0, compute, &memory));
  nlohmann::json list = nlohmann::json::object();
  for (const auto& [name, entry] : entries) list[name] = entry.bytes;
  ASSIGN_OR_RETURN(const std::vector<std::string> lists, world.GatherText(list.dump()));
  std::vector<std::string> files(lists.size());
  size_t count = 0, next = 0;
  for (const std::string& text : lists) count += text == "{}" ? 0 : 1;
  for (size_t rank = 0; rank < lists.size(); ++rank) {
    if (lists[rank] != "{}") files[rank] = FileName(next++, count);
  }
  const std::string& mine = files[static_cast<size_t>(world.rank())];
  if (!mine.empty()) {
    status = WriteSafetensors(temporary + "/" + mine, entries, {{"format", "muster"}});
  }
  RETURN_IF_ERROR(Agree(status, world));
  if (world.rank() == 0) status = PublishIndex(lists, files, temporary, directory);
  return Agree(status, world);
}

absl::Status LoadWeights(const std::string& directory, const parallel::ParameterList& parameters,
                         const std::vector<NamedBuffer>& buffers, kernels::StreamView compute) {
  std::map<std::string, std::pair<SafetensorsEntry, std::string>> stored;  // with file name
  std::vector<std::unique_ptr<SafetensorsFile>> files;
  std::error_code error;
  for (const auto& item : std::filesystem::directory_iterator(directory, error)) {
    if (item.path().extension() != ".safetensors") continue;
    ASSIGN_OR_RETURN(std::unique_ptr<SafetensorsFile> file,
                     SafetensorsFile::Open(item.path().string()));
    for (const auto& [name, entry] : file->tensors()) {
      if (!stored.emplace(name, std::pair(entry, item.path().string())).second) {
        return absl::DataLossError("tensor " + name + " stands in two files of " + directory);
      }
    }
    files.push_back(std::move(file));
  }
  if (error || files.empty()) {
    return absl::NotFoundError("wanted model-*.safetensors in " + directory + ", found none" +
                               (error ? ": " + error.message() : ""));
  }
  std::vector<Piece> wanted;
  for (const Parameter& parameter : parameters) {
    for (Piece& piece : PiecesOf(parameter)) wanted.push_back(std::move(piece));
  }
  for (const NamedBuffer& buffer : buffers) wanted.push_back({buffer.global_name, buffer.tensor});
  std::set<std::string> read;
  for (const Piece& piece : wanted) {
    const auto found = stored.find(piece.name);
    if (found == stored.end()) {
      return absl::NotFoundError("tensor " + piece.name + " is not in " + directory);
    }
    const auto& [entry, file] = found->second;
    if (entry.shape != Dims(piece.tensor.shape) || entry.dtype != piece.tensor.dtype) {
      return absl::FailedPreconditionError("tensor " + piece.name + " of " + file +
                                           " does not match the model: wanted " +
                                           piece.tensor.ToString());
    }
    kernels::CopyAsync(piece.tensor.data, entry.data, entry.bytes, compute);
    read.insert(piece.name);
  }
  // Experts of other ranks are legally left; on one rank everything must have been read.
  if (parameters.mesh().Group(Axis::kWorld).size() == 1 && read.size() != stored.size()) {
    for (const auto& [name, where] : stored) {
      if (!read.contains(name)) {
        return absl::FailedPreconditionError("tensor " + name + " of " + where.second +
                                             " belongs to no parameter of the model");
      }
    }
  }
  return compute.Synchronize();
}

}  // namespace muster::runtime
