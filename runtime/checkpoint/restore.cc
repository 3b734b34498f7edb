#include "runtime/checkpoint/restore.h"

#include <algorithm>
#include <filesystem>
#include <memory>

#include "absl/strings/numbers.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"
#include "kernels/base/error.h"
#include "kernels/base/log.h"
#include "runtime/checkpoint/agreement.h"
#include "runtime/checkpoint/reader.h"
#include "runtime/checkpoint/retention.h"

namespace muster::runtime {
namespace {

using kernels::BFloat16;
using kernels::DType;

// Opens and verifies what this rank reads and its share of the rest.
absl::StatusOr<std::unique_ptr<CheckpointReader>> OpenVerified(
    const std::string& path, const std::vector<WantedPiece>& wanted, const parallel::World& world) {
  ASSIGN_OR_RETURN(std::unique_ptr<CheckpointReader> reader, CheckpointReader::Open(path));
  for (int shard = world.rank(); shard < reader->num_shards(); shard += world.size()) {
    RETURN_IF_ERROR(reader->VerifyShard(shard));
  }
  for (const WantedPiece& piece : wanted) {
    RETURN_IF_ERROR(reader->Verify(piece.tensor, piece.stored, piece.range));
  }
  return reader;
}

// Collective. Some rank must want each stored tensor, else it was another model's.
absl::Status CheckAllWanted(const CheckpointReader& reader, const std::vector<WantedPiece>& wanted,
                            parallel::World& world) {
  const auto& tensors = reader.manifest().tensors;
  std::string mine(tensors.size(), '-');
  for (const WantedPiece& piece : wanted) {
    const auto place = std::distance(tensors.begin(), tensors.find(piece.tensor));
    mine[static_cast<size_t>(place)] = '+';
  }
  ASSIGN_OR_RETURN(const std::vector<std::string> all, world.GatherText(mine));
  size_t place = 0;
  for (const auto& [name, tensor] : tensors) {
    if (tensor.shape.num_elements() > 0 &&
        std::none_of(all.begin(), all.end(),
                     [&](const std::string& each) { return each[place] == '+'; })) {
      return absl::FailedPreconditionError("tensor " + name + " of " + reader.directory() +
                                           " belongs to nothing in this job: it was saved by "
                                           "another model");
    }
    ++place;
  }
  return absl::OkStatus();
}

// One buffer after the other, so that host memory stays small; each is in use until the stream has
// copied it.
absl::Status CopyIn(CheckpointReader& reader, const std::vector<WantedPiece>& wanted,
                    kernels::StreamView compute) {
  std::vector<char> bytes, rounded;
  for (const WantedPiece& piece : wanted) {
    bytes.resize(static_cast<size_t>(piece.range.count * kernels::SizeOf(piece.stored)));
    RETURN_IF_ERROR(reader.Read(piece.tensor, piece.range, bytes.data()));
    const void* source = bytes.data();
    if (piece.data.dtype != piece.stored) {
      rounded.resize(static_cast<size_t>(piece.data.bytes()));
      const float* from = reinterpret_cast<const float*>(bytes.data());
      std::transform(from, from + piece.range.count, reinterpret_cast<BFloat16*>(rounded.data()),
                     [](float value) { return BFloat16(value); });
      source = rounded.data();
    }
    kernels::CopyAsync(piece.data.data, source, piece.data.bytes(), compute);
    RETURN_IF_ERROR(compute.Synchronize());
  }
  return absl::OkStatus();
}

int64_t BytesOf(const std::vector<WantedPiece>& wanted) {
  int64_t bytes = 0;
  for (const WantedPiece& piece : wanted) {
    bytes += piece.range.count * static_cast<int64_t>(kernels::SizeOf(piece.stored));
  }
  return bytes;
}

}  // namespace

absl::StatusOr<std::vector<int64_t>> AgreedCheckpoints(const std::string& directory,
                                                       parallel::World& world) {
  absl::StatusOr<std::vector<int64_t>> mine = std::vector<int64_t>();
  if (world.rank() == 0) mine = ListCheckpoints(directory);
  ASSIGN_OR_RETURN(const absl::Status listed, Agree(mine.status(), world));
  RETURN_IF_ERROR(listed);
  ASSIGN_OR_RETURN(const std::vector<std::string> all, world.GatherText(absl::StrJoin(*mine, " ")));
  std::vector<int64_t> steps;
  for (const auto text : absl::StrSplit(all.front(), ' ', absl::SkipEmpty())) {
    int64_t step = 0;
    if (absl::SimpleAtoi(text, &step)) steps.push_back(step);
  }
  return steps;
}

RestoreSource SourceOf(const std::string& path) {
  const std::filesystem::path normal = std::filesystem::path(path + "/").lexically_normal();
  const std::filesystem::path last = normal.parent_path();  // without the slash
  const int64_t step = StepOfName(last.filename().string());
  if (step >= 0) return {.directory = last.parent_path().string(), .step = step};
  return {.directory = (last / "checkpoints").string()};
}

absl::StatusOr<std::optional<RestoredState>> Restore(const RestoreSource& source,
                                                     const std::vector<WantedPiece>& wanted,
                                                     parallel::World& world,
                                                     kernels::StreamView compute) {
  for (const WantedPiece& piece : wanted) {
    MUSTER_CHECK(piece.data.IsContiguous() && piece.data.num_elements() == piece.range.count &&
                 (piece.data.dtype == piece.stored ||
                  (piece.data.dtype == DType::kBFloat16 && piece.stored == DType::kFloat32)))
        << piece.tensor << ": " << piece.data.ToString();
  }
  const std::string& directory = source.directory;
  ASSIGN_OR_RETURN(std::vector<int64_t> steps, AgreedCheckpoints(directory, world));
  if (source.step >= 0) {
    std::erase_if(steps, [&](int64_t step) { return step != source.step; });
    if (steps.empty()) {
      return absl::NotFoundError("wanted " + CheckpointName(source.step) + " in " + directory +
                                 ", found no such checkpoint");
    }
  }
  std::vector<std::string> passed_by;
  for (const int64_t step : steps) {
    const std::string name = CheckpointName(step);
    const auto reader = OpenVerified(directory + "/" + name, wanted, world);
    ASSIGN_OR_RETURN(absl::Status good, Agree(reader.status(), world));
    if (good.ok()) {
      RETURN_IF_ERROR(CheckAllWanted(**reader, wanted, world));
      ASSIGN_OR_RETURN(good, Agree(CopyIn(**reader, wanted, compute), world));
    }
    if (good.ok()) {
      return RestoredState{(*reader)->manifest().facts, name, BytesOf(wanted),
                           std::move(passed_by)};
    }
    if (!absl::IsDataLoss(good)) return good;
    passed_by.push_back(name + ": " + std::string(good.message()));
    if (world.rank() == 0) {
      kernels::Log(kernels::Severity::kError, "checkpoint passed by: " + passed_by.back());
    }
  }
  if (passed_by.empty()) return std::optional<RestoredState>();
  if (source.step >= 0) return absl::DataLossError(passed_by.front());
  return absl::DataLossError("no good checkpoint is left in " + directory + ":\n  " +
                             absl::StrJoin(passed_by, "\n  "));
}

}  // namespace muster::runtime
