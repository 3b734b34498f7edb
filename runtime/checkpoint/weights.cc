#include "runtime/checkpoint/weights.h"

#include <algorithm>
#include <cstdio>
#include <filesystem>
#include <map>
#include <nlohmann/json.hpp>
#include <set>

#include "kernels/base/error.h"
#include "kernels/device/memory.h"
#include "parallel/comm/collectives.h"
#include "runtime/checkpoint/agreement.h"
#include "runtime/checkpoint/commit.h"
#include "runtime/checkpoint/not_saved.h"
#include "runtime/checkpoint/ranges.h"
#include "runtime/checkpoint/safetensors.h"
#include "runtime/job/atomic_file.h"

namespace muster::runtime {
namespace {

using kernels::TensorView;
using parallel::Axis;
using parallel::Parameter;

constexpr char kIndexName[] = "model.safetensors.index.json";

// A stored tensor and the memory that holds parts of it.
struct Piece {
  struct Part {
    LogicalRange range;
    TensorView memory;  // of range.count elements, contiguous
  };
  std::string name;
  kernels::Shape shape;
  kernels::DType dtype;
  std::vector<Part> parts;
};

kernels::Shape WithoutFirstDim(const kernels::Shape& shape) {
  switch (shape.rank()) {
    case 2:
      return {shape[1]};
    case 3:
      return {shape[1], shape[2]};
    default:
      MUSTER_CHECK(false) << "experts hold vectors or matrices, found " << shape.ToString();
      return {};
  }
}

LogicalRange WholeBox(const kernels::Shape& shape, const kernels::Shape& begin,
                      const kernels::Shape& size) {
  return {shape, begin, size, 0, size.num_elements()};
}

// The stored tensors of which `slice`, in `memory`, holds a part. An expert parameter [E, ...] is
// stored as E tensors: "a.experts.b" -> "a.experts.<e>.b".
std::vector<Piece> PiecesOf(const Parameter& parameter, const parallel::LocalSlice& slice,
                            const TensorView& memory) {
  const std::string marker = ".experts.", &name = parameter.global_name;
  const kernels::Shape& shape = parameter.global_shape;
  const size_t at = name.find(marker);
  const bool by_expert =
      parameter.placement.replica_axis == Axis::kExpertData && at != std::string::npos;
  std::map<int64_t, Piece> pieces;  // by expert; all under 0 if not by expert
  int64_t first = 0;
  for (const parallel::Box& box : slice.boxes) {
    for (int64_t e = 0; e < (by_expert ? box.size[0] : 1); ++e) {
      const int64_t expert = by_expert ? box.begin[0] + e : 0;
      const LogicalRange range = by_expert
                                     ? WholeBox(WithoutFirstDim(shape), WithoutFirstDim(box.begin),
                                                WithoutFirstDim(box.size))
                                     : WholeBox(shape, box.begin, box.size);
      Piece& piece = pieces[expert];
      piece.name = by_expert ? name.substr(0, at + marker.size()) + std::to_string(expert) + "." +
                                   name.substr(at + marker.size())
                             : name;
      piece.shape = range.global_shape;
      piece.dtype = memory.dtype;
      piece.parts.push_back({range, memory.Slice(0, first, first + range.count)});
      first += range.count;
    }
  }
  std::vector<Piece> list;
  for (auto& [expert, piece] : pieces) list.push_back(std::move(piece));
  return list;
}

Piece PieceOf(const NamedBuffer& buffer) {
  const kernels::Shape& shape = buffer.tensor.shape;
  return {buffer.global_name,
          shape,
          buffer.tensor.dtype,
          {{LogicalRange::Whole(shape), Flat(buffer.tensor)}}};
}

std::vector<int64_t> Dims(const kernels::Shape& shape) {
  std::vector<int64_t> dims;
  for (int d = 0; d < shape.rank(); ++d) dims.push_back(shape[d]);
  return dims;
}

// The tensors that this rank writes, in host memory, as they become known.
class OwnedTensors {
 public:
  OwnedTensors(kernels::Device device, kernels::StreamView compute)
      : device_(device), compute_(compute) {}

  // Copies the parts to their places; the tensor's memory is made for the first of them.
  absl::Status Add(const Piece& piece) {
    SafetensorsEntry& entry = entries_[piece.name];
    const int64_t size = kernels::SizeOf(piece.dtype);
    if (entry.data == nullptr) {
      const int64_t bytes = piece.shape.num_elements() * size;
      ASSIGN_OR_RETURN(kernels::DeviceBuffer host,
                       kernels::DeviceBuffer::AllocateHost(device_, bytes));
      entry = {piece.dtype, Dims(piece.shape), host.data(), bytes};
      memory_.push_back(std::move(host));
    }
    auto* whole = static_cast<char*>(memory_of(entry));
    for (const Piece::Part& part : piece.parts) {
      const auto* held = static_cast<const char*>(part.memory.data);
      for (const ElementRun& run : RunsOf(part.range)) {
        kernels::CopyAsync(whole + run.global * size, held + run.local * size, run.count * size,
                           compute_);
      }
    }
    return absl::OkStatus();
  }
  const std::map<std::string, SafetensorsEntry>& entries() const { return entries_; }

 private:
  static void* memory_of(const SafetensorsEntry& entry) { return const_cast<void*>(entry.data); }
  const kernels::Device device_;
  const kernels::StreamView compute_;
  std::map<std::string, SafetensorsEntry> entries_;
  std::vector<kernels::DeviceBuffer> memory_;
};

// The group over whose ranks the stored tensors of a parameter are cut; null: each is whole.
const parallel::ProcessGroup* GroupThatCuts(const Parameter& parameter,
                                            const parallel::Mesh& mesh) {
  for (const parallel::Shard& shard : parameter.placement.shards) {
    const bool cuts = shard.axis == Axis::kTensor || shard.axis == Axis::kExpertTensor;
    if (cuts && mesh.Group(shard.axis).size() > 1) return &mesh.Group(shard.axis);
  }
  return nullptr;
}

// All ranks of `group` bring their slices to its first rank, which adds them to `owned`.
absl::Status AddGathered(const Parameter& parameter, const parallel::Mesh& mesh,
                         const parallel::ProcessGroup& group, kernels::StreamView compute,
                         OwnedTensors* owned) {
  std::vector<parallel::LocalSlice> slices;
  int64_t most = 0;
  for (const int rank : group.world_ranks()) {
    slices.push_back(SliceOf(parameter.global_shape, parameter.placement,
                             parallel::CoordinatesOf(rank, mesh.degrees()), mesh.degrees()));
    most = std::max(most, slices.back().size.num_elements());
  }
  ASSIGN_OR_RETURN(const kernels::Tensor gathered,
                   kernels::Tensor::Allocate(parameter.weight.dtype, {group.size() * most},
                                             parameter.weight.device));
  const auto row = [&](int rank, int64_t count) {
    return gathered.view().Slice(0, rank * most, rank * most + count);
  };
  const TensorView mine = Flat(parameter.weight);
  kernels::CopyAsync(row(group.rank(), mine.num_elements()), mine, compute);
  RETURN_IF_ERROR(parallel::AllGather(row(group.rank(), most), gathered.view(), group, compute));
  for (int rank = 0; group.rank() == 0 && rank < group.size(); ++rank) {
    const parallel::LocalSlice& slice = slices[static_cast<size_t>(rank)];
    for (const Piece& piece : PiecesOf(parameter, slice, row(rank, slice.size.num_elements()))) {
      RETURN_IF_ERROR(owned->Add(piece));
    }
  }
  return compute.Synchronize();  // before the memory goes
}

absl::Status CollectOwned(const parallel::ParameterList& parameters,
                          const std::vector<NamedBuffer>& buffers, bool writes_buffers,
                          kernels::StreamView compute, parallel::ParameterHooks* hooks,
                          OwnedTensors* owned) {
  const parallel::Mesh& mesh = parameters.mesh();
  for (parallel::ParameterId id = 0; id < parameters.size(); ++id) {
    const Parameter& parameter = parameters[id];
    if (hooks != nullptr) hooks->Use(id, compute);
    if (mesh.Group(parameter.placement.replica_axis).rank() != 0) continue;
    if (parameter.placement.tie == parallel::Tie::kCopy) continue;
    if (const parallel::ProcessGroup* group = GroupThatCuts(parameter, mesh)) {
      RETURN_IF_ERROR(AddGathered(parameter, mesh, *group, compute, owned));
      continue;
    }
    for (const Piece& piece : PiecesOf(parameter, parameter.slice, Flat(parameter.weight))) {
      RETURN_IF_ERROR(owned->Add(piece));
    }
  }
  for (const NamedBuffer& buffer : buffers) {
    if (writes_buffers) RETURN_IF_ERROR(owned->Add(PieceOf(buffer)));
  }
  return compute.Synchronize();
}

// OK on every rank, or a rank's error on every rank. An attempt that was replaced has nothing to
// save.
absl::Status AgreeOnDisk(const absl::Status& mine, parallel::World& world) {
  ASSIGN_OR_RETURN(const absl::Status agreed, Agree(mine, world));
  return absl::IsAborted(agreed) ? agreed : NotSavedError(agreed);
}

std::string FileName(size_t index, size_t count) {
  char name[64];
  std::snprintf(name, sizeof(name), "model-%05zu-of-%05zu.safetensors", index + 1, count);
  return name;
}

absl::Status CheckFence(const WeightsPlace& place) {
  return place.fence ? place.fence() : absl::OkStatus();
}

absl::Status CreateDirectory(const WeightsPlace& place, const std::string& temporary) {
  RETURN_IF_ERROR(CheckFence(place));
  return Disk().MakeDirectory(temporary);
}

absl::Status PublishIndex(const std::vector<std::string>& lists,
                          const std::vector<std::string>& files, const std::string& temporary,
                          const WeightsPlace& place) {
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
  RETURN_IF_ERROR(CheckFence(place));
  const std::filesystem::path final = std::filesystem::path(place.directory).lexically_normal();
  return Publish(Disk(), final.parent_path().empty() ? "." : final.parent_path().string(),
                 std::filesystem::path(temporary).filename().string(), final.filename().string());
}

}  // namespace

absl::Status SaveWeights(const WeightsPlace& place, const parallel::ParameterList& parameters,
                         const std::vector<NamedBuffer>& buffers, parallel::World& world,
                         kernels::StreamView compute, parallel::ParameterHooks* hooks) {
  const std::string temporary =
      place.directory + ".attempt-" + std::to_string(place.attempt) + ".partial";
  absl::Status status;
  if (world.rank() == 0) status = CreateDirectory(place, temporary);
  RETURN_IF_ERROR(AgreeOnDisk(status, world));

  OwnedTensors owned(parameters.mesh().device(), compute);
  RETURN_IF_ERROR(CollectOwned(parameters, buffers, world.rank() == 0, compute, hooks, &owned));
  const std::map<std::string, SafetensorsEntry>& entries = owned.entries();
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
  RETURN_IF_ERROR(AgreeOnDisk(status, world));
  if (world.rank() == 0) status = PublishIndex(lists, files, temporary, place);
  return AgreeOnDisk(status, world);
}

absl::Status LoadWeights(const std::string& directory, const parallel::ParameterList& parameters,
                         const std::vector<NamedBuffer>& buffers, kernels::StreamView compute) {
  std::map<std::string, std::pair<SafetensorsEntry, const SafetensorsFile*>> stored;
  std::vector<std::unique_ptr<SafetensorsFile>> files;
  std::error_code error;
  for (const auto& item : std::filesystem::directory_iterator(directory, error)) {
    if (item.path().extension() != ".safetensors") continue;
    ASSIGN_OR_RETURN(std::unique_ptr<SafetensorsFile> file,
                     SafetensorsFile::Open(item.path().string()));
    for (const auto& [name, entry] : file->tensors()) {
      if (!stored.emplace(name, std::pair(entry, file.get())).second) {
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
    if (!parameter.weight) {
      return absl::FailedPreconditionError(
          "weights are read where each rank holds all of them, but " + parameter.global_name +
          " is sharded: use zero.level 0 to 2");
    }
    for (Piece& piece : PiecesOf(parameter, parameter.slice, Flat(parameter.weight))) {
      wanted.push_back(std::move(piece));
    }
  }
  for (const NamedBuffer& buffer : buffers) wanted.push_back(PieceOf(buffer));
  std::set<std::string> read;
  for (const Piece& piece : wanted) {
    const auto found = stored.find(piece.name);
    if (found == stored.end()) {
      return absl::NotFoundError("tensor " + piece.name + " is not in " + directory);
    }
    const auto& [entry, file] = found->second;
    if (entry.shape != Dims(piece.shape) || entry.dtype != piece.dtype) {
      return absl::FailedPreconditionError("tensor " + piece.name + " of " + file->path() +
                                           " does not match the model: wanted " +
                                           kernels::Name(piece.dtype) + piece.shape.ToString());
    }
    const int64_t size = kernels::SizeOf(piece.dtype);
    for (const Piece::Part& part : piece.parts) {
      std::vector<char> bytes(static_cast<size_t>(part.range.count * size));
      for (const ElementRun& run : RunsOf(part.range)) {
        RETURN_IF_ERROR(file->Read(entry, run.global * size, bytes.data() + run.local * size,
                                   run.count * size));
      }
      kernels::CopyAsync(part.memory.data, bytes.data(), part.range.count * size, compute);
      RETURN_IF_ERROR(compute.Synchronize());
    }
    read.insert(piece.name);
  }
  // Experts of other ranks are legally left; on one rank everything must have been read.
  if (parameters.mesh().Group(Axis::kWorld).size() == 1 && read.size() != stored.size()) {
    for (const auto& [name, where] : stored) {
      if (!read.contains(name)) {
        return absl::FailedPreconditionError("tensor " + name + " of " + where.second->path() +
                                             " belongs to no parameter of the model");
      }
    }
  }
  return compute.Synchronize();
}

}  // namespace muster::runtime
