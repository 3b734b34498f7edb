#include "parallel/mesh/mesh.h"

#include <algorithm>
#include <utility>

#include "kernels/base/error.h"
#include "kernels/device/stream.h"
#include "parallel/comm/collectives.h"

namespace muster::parallel {
namespace {

constexpr Axis kAllAxes[] = {
    Axis::kData,         Axis::kTensor,     Axis::kContext,      Axis::kPipeline, Axis::kExpert,
    Axis::kExpertTensor, Axis::kExpertData, Axis::kDenseReplica, Axis::kStage,    Axis::kWorld};

TimeCategory CategoryOf(Axis axis) {
  switch (axis) {
    case Axis::kTensor:
    case Axis::kExpertTensor:
      return kExposedTp;
    case Axis::kContext:
      return kExposedCp;
    case Axis::kPipeline:
      return kExposedPp;
    case Axis::kExpert:
      return kExposedEp;
    case Axis::kData:
    case Axis::kExpertData:
    case Axis::kDenseReplica:
    case Axis::kStage:
      return kExposedDp;
    case Axis::kWorld:
      return kOptimizer;  // what all ranks reduce is the gradient norm
  }
  return kOther;
}

// True if moving along `axis` is all that takes coordinates `a` to `b`.
bool SameGroup(Axis axis, const MeshCoordinates& a, const MeshCoordinates& b) {
  const bool pp = a.pp == b.pp, dp = a.dp == b.dp, cp = a.cp == b.cp, tp = a.tp == b.tp;
  const bool edp = a.edp == b.edp, ep = a.ep == b.ep, etp = a.etp == b.etp;
  switch (axis) {
    case Axis::kData:
      return pp && cp && tp;
    case Axis::kTensor:
      return pp && dp && cp;
    case Axis::kContext:
      return pp && dp && tp;
    case Axis::kPipeline:
      return dp && cp && tp;
    case Axis::kDenseReplica:
      return pp && tp;
    case Axis::kStage:
      return pp;
    case Axis::kExpert:
      return pp && edp && etp;
    case Axis::kExpertTensor:
      return pp && edp && ep;
    case Axis::kExpertData:
      return pp && ep && etp;
    case Axis::kWorld:
      return true;
  }
  return false;
}

std::unique_ptr<ProcessGroup> SilentGroup(Axis axis, World& world, const MeshDegrees& degrees) {
  std::vector<int> ranks = GroupRanks(axis, world.rank(), degrees);
  const auto self = std::find(ranks.begin(), ranks.end(), world.rank());
  const auto rank = static_cast<int>(self - ranks.begin());
  return std::make_unique<ProcessGroup>(Name(axis), std::move(ranks), rank, CategoryOf(axis),
                                        /*communicator=*/nullptr, &world.log());
}

struct DenseAxis {
  int degree;
  int MeshCoordinates::*coordinate;
};
DenseAxis DenseAxisOf(Axis axis, const MeshDegrees& degrees) {
  switch (axis) {
    case Axis::kTensor:
      return {degrees.tp, &MeshCoordinates::tp};
    case Axis::kContext:
      return {degrees.cp, &MeshCoordinates::cp};
    case Axis::kData:
      return {degrees.dp, &MeshCoordinates::dp};
    case Axis::kPipeline:
      return {degrees.pp, &MeshCoordinates::pp};
    default:
      break;
  }
  MUSTER_CHECK(false) << Name(axis) << " is no axis that orders the ranks";
  return {};
}

struct Field {
  const char* name;
  int value;
};

// The legal values of a degree next to `value`, below and above: "2 or 4". Degrees beyond `most`
// are never legal.
template <typename IsLegal>
std::string NearestLegal(int value, int most, IsLegal is_legal) {
  std::string text;
  int below = std::min(value - 1, most), above = std::max(value + 1, 1);
  while (below >= 1 && !is_legal(below)) --below;
  while (above <= most && !is_legal(above)) ++above;
  if (below >= 1) text = std::to_string(below);
  if (above <= most) text += (text.empty() ? "" : " or ") + std::to_string(above);
  return text.empty() ? "none" : text;
}

// Ways to repair a product of degrees: one of the fields takes another value, the others stay.
template <typename IsLegal>
std::string Repairs(const std::vector<Field>& fields, int64_t product, int most, IsLegal is_legal) {
  std::string text;
  for (const Field& field : fields) {
    if (field.value == 1) continue;
    const int64_t others = product / field.value;
    const std::string nearest =
        NearestLegal(field.value, most, [&](int value) { return is_legal(others * value); });
    if (nearest != "none")
      text += (text.empty() ? "" : ", or ") + std::string(field.name) + " = " + nearest;
  }
  return text.empty() ? "change more than one of them" : text;
}

std::string Product(const std::vector<Field>& fields) {
  std::string text;
  for (const Field& field : fields) {
    text +=
        (text.empty() ? "" : " x ") + std::string(field.name) + " " + std::to_string(field.value);
  }
  return text;
}

}  // namespace

const char* Name(Axis axis) {
  static constexpr const char* kNames[] = {"dp",  "tp",  "cp",    "pp",    "ep",
                                           "etp", "edp", "dp_cp", "stage", "world"};
  return kNames[static_cast<int>(axis)];
}

std::string MeshDegrees::ToString() const {
  std::string text;
  const Field fields[] = {{"dp", dp}, {"tp", tp}, {"cp", cp}, {"pp", pp}, {"ep", ep}, {"etp", etp}};
  for (const Field& field : fields) {
    if (field.value == 1) continue;
    if (!text.empty()) text += " ";
    text += field.name;
    text += std::to_string(field.value);
  }
  if (ep > 1 || etp > 1) text += " (edp" + std::to_string(edp()) + ")";
  if (text.empty()) text = "dp1";
  if (order != kDefaultOrder) text += ", order " + parallel::ToString(order);
  return text;
}

MeshDegrees ResolveMesh(MeshDegrees wanted, int world_size, std::vector<std::string>* problems) {
  const size_t before = problems->size();
  MUSTER_CHECK(world_size >= 1);
  const std::string world = std::to_string(world_size) + " ranks";
  for (const Field& field :
       {Field{"mesh.tp", wanted.tp}, Field{"mesh.cp", wanted.cp}, Field{"mesh.pp", wanted.pp},
        Field{"mesh.ep", wanted.ep}, Field{"mesh.etp", wanted.etp}}) {
    if (field.value >= 1) continue;
    problems->push_back(std::string(field.name) + " = " + std::to_string(field.value) +
                        " must be at least 1; the nearest legal value is 1");
  }
  if (wanted.dp < 0) {
    problems->push_back("mesh.dp = " + std::to_string(wanted.dp) +
                        " must be at least 1, or 0 for what is left of the world");
  }
  if (problems->size() > before) return wanted;  // products of these would mean nothing

  const int64_t model = int64_t{wanted.pp} * wanted.cp * wanted.tp;
  const auto divides_world = [&](int64_t degree) { return world_size % degree == 0; };
  const std::vector<Field> model_fields = {
      {"mesh.pp", wanted.pp}, {"mesh.cp", wanted.cp}, {"mesh.tp", wanted.tp}};
  if (!divides_world(model)) {
    problems->push_back(
        Product(model_fields) + " = " + std::to_string(model) + " must divide the " + world +
        "; nearest legal: " + Repairs(model_fields, model, world_size, divides_world));
  } else if (wanted.dp == 0) {
    wanted.dp = static_cast<int>(world_size / model);
  } else if (wanted.dp * model != world_size) {
    problems->push_back("mesh.dp = " + std::to_string(wanted.dp) + " with " +
                        Product(model_fields) + " makes " + std::to_string(wanted.dp * model) +
                        " ranks, but there are " + world + "; the nearest legal value is " +
                        std::to_string(world_size / model) + ", or start " +
                        std::to_string(wanted.dp * model) + " ranks");
  }

  // The experts' rule needs only the ranks of a stage, so it is told beside the ones above.
  if (world_size % wanted.pp != 0) return wanted;
  const int stage_ranks = world_size / wanted.pp;
  const int64_t expert = int64_t{wanted.ep} * wanted.etp;
  const auto divides_stage = [&](int64_t degree) { return stage_ranks % degree == 0; };
  if (!divides_stage(expert)) {
    const std::vector<Field> fields = {{"mesh.ep", wanted.ep}, {"mesh.etp", wanted.etp}};
    problems->push_back(Product(fields) + " = " + std::to_string(expert) + " must divide the " +
                        std::to_string(stage_ranks) +
                        " ranks of a pipeline stage (dp x cp x tp); nearest legal: " +
                        Repairs(fields, expert, stage_ranks, divides_stage));
  }
  return wanted;
}

MeshCoordinates CoordinatesOf(int world_rank, const MeshDegrees& degrees) {
  MUSTER_CHECK(world_rank >= 0 && world_rank < degrees.world_size())
      << "world rank " << world_rank << " of mesh " << degrees.ToString();
  MeshCoordinates at;
  int rest = world_rank, in_stage = 0, stride = 1;
  for (const Axis axis : degrees.order) {
    const DenseAxis dense = DenseAxisOf(axis, degrees);
    at.*dense.coordinate = rest % dense.degree;
    rest /= dense.degree;
    if (axis == Axis::kPipeline) continue;
    in_stage += at.*dense.coordinate * stride;
    stride *= dense.degree;
  }
  at.etp = in_stage % degrees.etp;
  at.ep = in_stage / degrees.etp % degrees.ep;
  at.edp = in_stage / (degrees.etp * degrees.ep);
  return at;
}

int IndexInStage(int world_rank, const MeshDegrees& degrees) {
  const MeshCoordinates at = CoordinatesOf(world_rank, degrees);
  return at.etp + degrees.etp * (at.ep + degrees.ep * at.edp);
}

std::vector<int> GroupRanks(Axis axis, int world_rank, const MeshDegrees& degrees) {
  const MeshCoordinates self = CoordinatesOf(world_rank, degrees);
  std::vector<int> ranks;
  for (int rank = 0; rank < degrees.world_size(); ++rank) {
    if (SameGroup(axis, self, CoordinatesOf(rank, degrees))) ranks.push_back(rank);
  }
  return ranks;
}

absl::StatusOr<std::unique_ptr<Mesh>> Mesh::Create(World& world, const MeshDegrees& degrees,
                                                   kernels::Device device,
                                                   const std::set<Axis>& silent) {
  std::vector<std::string> problems;
  const MeshDegrees resolved = ResolveMesh(degrees, world.size(), &problems);
  MUSTER_CHECK(problems.empty() && resolved.dp == degrees.dp)
      << "mesh " << degrees.ToString() << " of " << world.size()
      << " ranks is not resolved: " << (problems.empty() ? "dp is open" : problems.front());
  std::unique_ptr<Mesh> mesh(new Mesh());
  mesh->degrees_ = degrees;
  mesh->coordinates_ = CoordinatesOf(world.rank(), degrees);
  mesh->device_ = device;
  const auto mode = device.type == kernels::DeviceType::kCpu ? kernels::StreamMode::kInline
                                                             : kernels::StreamMode::kQueue;
  ASSIGN_OR_RETURN(const kernels::Stream stream,
                   kernels::Stream::Create(device, mode, "warm groups"));
  // With shards, replicas exchange within their blocks and across them, and never all at once.
  std::set<Axis> silent_as_a_whole = silent;
  if (degrees.shard > 0) {
    silent_as_a_whole.insert({Axis::kDenseReplica, Axis::kExpertData, Axis::kStage});
  }
  for (const Axis axis : kAllAxes) {
    if (silent_as_a_whole.contains(axis)) {
      mesh->groups_.push_back(SilentGroup(axis, world, degrees));
      continue;
    }
    ASSIGN_OR_RETURN(auto group, world.NewGroup(Name(axis), GroupRanks(axis, world.rank(), degrees),
                                                CategoryOf(axis), device));
    // The first call opens connections: it belongs to the start, not to the first step.
    RETURN_IF_ERROR(Barrier(*group, stream.view()));
    RETURN_IF_ERROR(stream.view().Synchronize());
    mesh->groups_.push_back(std::move(group));
  }
  RETURN_IF_ERROR(mesh->MakeShardGroups(world, silent, stream.view()));
  if (degrees.cp > 1) {
    ASSIGN_OR_RETURN(mesh->context_stream_, SideStream::Create(device, "context"));
  }
  return mesh;
}

const SideStream& Mesh::context_stream() const {
  MUSTER_CHECK(context_stream_ != nullptr) << "mesh " << degrees_.ToString() << " has no cp";
  return *context_stream_;
}

}  // namespace muster::parallel
