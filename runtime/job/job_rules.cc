#include "runtime/job/job_rules.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <filesystem>
#include <limits>
#include <numeric>
#include <utility>

#include "absl/strings/str_cat.h"
#include "kernels/device/device.h"
#include "kernels/ops/attention_support.h"
#include "models/config.h"
#include "runtime/job/fault_plan.h"
#include "runtime/job/peak.h"
#include "runtime/job/pipeline.h"

namespace muster::runtime {
namespace {

using parallel::MeshDegrees;

constexpr double kInfinity = std::numeric_limits<double>::infinity();

// A number's legal interval; "above" excludes the bound.
struct Bounds {
  const char* path;
  double low;
  bool above = false;
  double high = kInfinity;
  bool below = false;
};

constexpr Bounds kBounds[] = {
    {.path = "train.steps", .low = 1},
    {.path = "train.global_batch_sequences", .low = 1},
    {.path = "train.sequence_length", .low = 1},
    {.path = "train.max_seconds", .low = 0},
    {.path = "data.synthetic.tokens", .low = 2, .high = 0x1p30},
    {.path = "optimizer.learning_rate", .low = 0, .above = true},
    {.path = "optimizer.min_learning_rate_ratio", .low = 0, .high = 1},
    {.path = "optimizer.warmup_steps", .low = 0},
    {.path = "optimizer.decay_steps", .low = 0},
    {.path = "optimizer.beta1", .low = 0, .high = 1, .below = true},
    {.path = "optimizer.beta2", .low = 0, .high = 1, .below = true},
    {.path = "optimizer.epsilon", .low = 0, .above = true},
    {.path = "optimizer.weight_decay", .low = 0},
    {.path = "optimizer.clip_norm", .low = 0},
    {.path = "schedule.microbatches", .low = 1},
    {.path = "schedule.virtual_stages", .low = 1},
    {.path = "zero.level", .low = 0, .high = 3},
    {.path = "zero.shard_ranks", .low = 0},
    {.path = "communication.bucket_megabytes", .low = 0, .above = true},
    {.path = "communication.deadline_seconds", .low = 0, .above = true},
    {.path = "communication.start_deadline_seconds", .low = 0, .above = true},
    {.path = "communication.save_deadline_seconds", .low = 0, .above = true},
    {.path = "communication.evaluate_deadline_seconds", .low = 0, .above = true},
    {.path = "communication.test_link_latency_us", .low = 0},
    {.path = "communication.test_link_gigabytes_per_second", .low = 0},
    {.path = "communication.nccl.min_ctas", .low = 0, .high = 64},
    {.path = "communication.nccl.max_ctas", .low = 0, .high = 64},
    {.path = "communication.nccl.overlapped_max_ctas", .low = 0, .high = 64},
    {.path = "communication.nccl.cga_cluster_size", .low = 0, .high = 8},
    {.path = "evaluate.every_steps", .low = 0},
    {.path = "evaluate.sequences", .low = 1},
    {.path = "checkpoint.every_steps", .low = 0},
    {.path = "checkpoint.keep", .low = 1},
    {.path = "checkpoint.memory_every_steps", .low = 0},
    {.path = "checkpoint.memory_test_hosts", .low = 0},
    {.path = "log.every_steps", .low = 1},
    {.path = "safety.max_consecutive_skips", .low = 0},
    {.path = "safety.loss_spike_factor", .low = 0},
    {.path = "safety.loss_window", .low = 1, .high = 100000},
    {.path = "safety.replica_check_every", .low = 0},
    {.path = "safety.state_check_every", .low = 0},
    {.path = "safety.replay_every", .low = 0},
    {.path = "log.trace_step", .low = 0},
};

// Whole numbers without an exponent.
std::string Show(double value) {
  return std::fabs(value) < 0x1p53 && value == std::floor(value)
             ? absl::StrCat(static_cast<int64_t>(value))
             : absl::StrCat(value);
}

std::string Show(const Bounds& bounds) {
  std::string text = absl::StrCat(bounds.above ? "greater than " : "at least ", Show(bounds.low));
  if (bounds.high != kInfinity) {
    absl::StrAppend(&text, bounds.below ? " and below " : " and at most ", Show(bounds.high));
  }
  return text;
}

// The multiple of `unit`, at least one, that is nearest to `value`.
int64_t NearestMultiple(int64_t value, int64_t unit) {
  return std::max<int64_t>(1, (value + unit / 2) / unit) * unit;
}

class Checker {
 public:
  Checker(const Job& job, const FieldOrigins& origins, std::vector<ConfigProblem>* problems)
      : job_(job), origins_(origins), problems_(problems) {
    paths_ = FieldPaths(*Job::descriptor(), /*with_blocks=*/true);
  }

  void Broken(const std::string& path, const std::string& sentence) {
    if (origins_.IsBroken(path)) return;
    problems_->push_back({origins_.WhereOf(path), sentence});
  }
  // A rule over several fields says nothing while one of them has a problem of its own.
  bool AnyBroken(std::initializer_list<const char*> paths) const {
    return std::any_of(paths.begin(), paths.end(),
                       [this](const char* path) { return origins_.HasBroken(path); });
  }
  // Sentences of other modules start with the field they are about.
  void AddSentences(const std::vector<std::string>& sentences) {
    for (const std::string& sentence : sentences) Broken(FirstFieldIn(sentence), sentence);
  }

  void CheckBounds();
  MeshDegrees CheckMesh(int world_size);
  void CheckOrder();
  void CheckModel(const MeshDegrees& mesh);
  void CheckBatch(int64_t dp);
  void CheckStreamRows(int64_t dp);
  void CheckContext();
  void CheckPipeline(const MeshDegrees& mesh);
  void CheckGraphs(const MeshDegrees& mesh);
  void CheckOptimizer();
  void CheckData(FileRules files);
  void CheckDevice();
  void CheckAttention();
  void CheckNccl();
  void CheckRecompute();
  void CheckZero(const MeshDegrees& mesh);
  void CheckPeak();
  void CheckFaults(int world_size);
  void CheckMemoryTier();

 private:
  std::string FirstFieldIn(const std::string& sentence) const {
    std::string best;
    size_t best_at = std::string::npos;
    for (const std::string& path : paths_) {
      const size_t at = sentence.find(path);
      if (at > best_at || at == std::string::npos) continue;
      if (at < best_at || path.size() > best.size()) best = path;
      best_at = at;
    }
    return best;
  }
  // Whether a problem of a derived field follows from one of the field it was derived from.
  bool OnlyRepeats(const std::string& path, const std::vector<std::string>& others) const;
  void CheckFiles(const char* path, const google::protobuf::RepeatedPtrField<std::string>& files);

  const Job& job_;
  const FieldOrigins& origins_;
  std::vector<ConfigProblem>* problems_;
  std::vector<std::string> paths_;
};

void Checker::CheckBounds() {
  for (const Bounds& bounds : kBounds) {
    const std::string path = bounds.path;
    if (!IsGiven(job_, path)) continue;  // in a block that may be absent
    const double value = NumberAt(job_, path);
    const bool high_enough = bounds.above ? value > bounds.low : value >= bounds.low;
    const bool low_enough =
        bounds.below || bounds.high == kInfinity ? value < bounds.high : value <= bounds.high;
    if (high_enough && low_enough) continue;
    Broken(path, absl::StrCat(path, " is ", Show(value), ": it must be ",
                              std::isfinite(value) ? "" : "finite and ", Show(bounds)));
  }
}

MeshDegrees Checker::CheckMesh(int world_size) {
  const MeshDegrees wanted = DegreesOf(job_);
  if (AnyBroken({"mesh"})) return {};
  std::vector<std::string> sentences;
  const MeshDegrees mesh = parallel::ResolveMesh(
      wanted, world_size == 0 ? SmallestWorld(wanted) : world_size, &sentences);
  AddSentences(sentences);
  return sentences.empty() ? mesh : MeshDegrees{};
}

void Checker::CheckOrder() {
  parallel::AxisOrder order;
  std::string nearest;
  if (parallel::ParseAxisOrder(job_.mesh().order(), &order, &nearest)) return;
  Broken("mesh.order",
         absl::StrCat("mesh.order is \"", job_.mesh().order(),
                      "\": it must have each of tp, cp, dp and pp once, innermost first; the "
                      "nearest is \"",
                      nearest, "\""));
}

void Checker::CheckModel(const MeshDegrees& mesh) {
  std::vector<std::string> sentences;
  models::CheckModel(job_.model(), &sentences);
  if (mesh.dp > 0) models::CheckModelOnMesh(job_.model(), mesh, &sentences);
  std::erase_if(sentences, [&](const std::string& sentence) {
    return OnlyRepeats(FirstFieldIn(sentence), sentences);
  });
  AddSentences(sentences);
}

bool Checker::OnlyRepeats(const std::string& path, const std::vector<std::string>& others) const {
  // What models::FillDefaults derives from what.
  static constexpr std::array<std::pair<const char*, const char*>, 4> kDerived = {{
      {"model.kv_heads", "model.heads"},
      {"model.head_size", "model.heads"},
      {"model.head_size", "model.hidden"},
      {"model.moe.expert_ffn_hidden", "model.ffn_hidden"},
  }};
  for (const auto& [derived, source] : kDerived) {
    if (path != derived || origins_.Has(path)) continue;
    if (origins_.IsBroken(source)) return true;
    for (const std::string& other : others) {
      if (FirstFieldIn(other) == source) return true;
    }
  }
  return false;
}

void Checker::CheckBatch(int64_t dp) {
  const int64_t length = job_.train().sequence_length(), longest = job_.model().max_positions();
  if (!AnyBroken({"train.sequence_length", "model.max_positions"}) && length > longest &&
      longest > 0) {
    Broken("train.sequence_length",
           absl::StrCat("train.sequence_length is ", length,
                        ": it must be at most model.max_positions, ", longest));
  }
  if (AnyBroken({"schedule.microbatches", "train.global_batch_sequences"}) || dp < 1) return;
  const int64_t batch = job_.train().global_batch_sequences();
  const int64_t microbatches = job_.schedule().microbatches();
  const int64_t unit = dp * microbatches;
  if (batch < 1 || microbatches < 1 || batch % unit == 0) return;
  Broken(
      "train.global_batch_sequences",
      absl::StrCat("train.global_batch_sequences is ", batch,
                   ": it must be a multiple of mesh.dp x schedule.microbatches = ", dp, " x ",
                   microbatches, " = ", unit, "; the nearest is ", NearestMultiple(batch, unit)));
}

// Sequence parallelism cuts the rows of a microbatch evenly; experts deal its tokens out over the
// tensor ranks even without it.
void Checker::CheckStreamRows(int64_t dp) {
  const int64_t tp = job_.mesh().tp(), cp = job_.mesh().cp();
  const int64_t length = job_.train().sequence_length();
  if (tp <= 1 || dp < 1 || AnyBroken({"mesh", "schedule.microbatches", "train"})) return;
  const bool routed = job_.model().has_moe();
  if (!job_.mesh().sequence_parallel() && !routed) return;
  const int64_t sequences =
      job_.train().global_batch_sequences() / (dp * job_.schedule().microbatches());
  // What context ranks cannot cut is told by CheckContext.
  if (length % cp != 0 || sequences * (length / cp) % tp == 0) return;
  const int64_t unit = std::lcm(cp * (tp / std::gcd(tp, sequences)), cp > 1 ? 2 * cp : 1);
  Broken("train.sequence_length",
         absl::StrCat("train.sequence_length is ", length, ": a microbatch of ", sequences,
                      " sequences has ", sequences * (length / cp), " tokens on a rank, which ",
                      routed ? "are routed" : "mesh.sequence_parallel cuts", " over mesh.tp = ", tp,
                      " ranks; the nearest length that divides is ", NearestMultiple(length, unit),
                      routed ? "" : ", or set mesh.sequence_parallel=false"));
}

// Context ranks take two chunks each of every sequence.
void Checker::CheckContext() {
  const int64_t cp = job_.mesh().cp(), length = job_.train().sequence_length();
  if (cp <= 1 || AnyBroken({"mesh.cp", "train.sequence_length", "model.max_positions"})) return;
  const int64_t unit = 2 * cp, longest = job_.model().max_positions();
  if (length % unit == 0) return;
  int64_t nearest = NearestMultiple(length, unit);
  if (nearest > longest) nearest = longest / unit * unit;
  const std::string use =
      nearest > 0 ? absl::StrCat("the nearest is ", nearest)
                  : absl::StrCat("model.max_positions is ", longest, ", so lower mesh.cp");
  Broken("train.sequence_length", absl::StrCat("train.sequence_length is ", length,
                                               ": it must be a multiple of 2 x mesh.cp = ", unit,
                                               ", as context ranks take two chunks each; ", use));
}

void Checker::CheckPipeline(const MeshDegrees& mesh) {
  if (mesh.dp < 1 || AnyBroken({"mesh", "schedule", "model.layers"})) return;
  std::vector<std::string> sentences;
  PlanPipeline(job_, mesh.pp, &sentences);
  AddSentences(sentences);
}

void Checker::CheckGraphs(const MeshDegrees& mesh) {
  if (!job_.schedule().graphs()) return;
  const auto refuse = [this](bool broken, const char* why, const char* instead) {
    if (!broken) return;
    Broken("schedule.graphs",
           absl::StrCat("schedule.graphs is true, but passes of this job cannot be recorded: ", why,
                        "; use ", instead, ", or schedule.graphs: false"));
  };
  refuse(job_.model().has_moe(), "the host reads what a router decided", "a model without moe");
  refuse(mesh.tp * mesh.cp * mesh.pp > 1, "they exchange data with other ranks",
         "mesh.tp, mesh.cp and mesh.pp of 1");
  refuse(job_.zero().level() > 1, "weights or gradients have no fixed place", "zero.level 0 or 1");
}

void Checker::CheckOptimizer() {
  const Optimizer& optimizer = job_.optimizer();
  // Without decay_steps the decay ends with train.steps, and a shorter run is all warm-up.
  const int64_t decay = optimizer.decay_steps();
  if (AnyBroken({"optimizer.warmup_steps", "optimizer.decay_steps"})) return;
  if (decay > 0 && optimizer.warmup_steps() > decay) {
    Broken("optimizer.warmup_steps",
           absl::StrCat("optimizer.warmup_steps is ", optimizer.warmup_steps(),
                        ": it must be at most optimizer.decay_steps, ", decay));
  }
}

void Checker::CheckFiles(const char* path,
                         const google::protobuf::RepeatedPtrField<std::string>& files) {
  for (const std::string& file : files) {
    std::error_code ignored;
    const bool found = std::filesystem::is_regular_file(file, ignored) ||
                       (std::filesystem::is_regular_file(file + ".bin", ignored) &&
                        std::filesystem::is_regular_file(file + ".idx", ignored));
    if (found) continue;
    Broken(path, absl::StrCat(path, " names ", file, ": wanted a token file there (relative to ",
                              std::filesystem::current_path(ignored).string(),
                              "), found none; `muster data prepare` makes one from text"));
  }
}

void Checker::CheckData(FileRules files) {
  const Data& data = job_.data();
  if (AnyBroken({"data"})) return;
  const bool has_files = data.train_files_size() > 0;
  if (has_files && data.has_synthetic()) {
    Broken("data.synthetic",
           "data.synthetic is given beside data.train_files: keep one of them (--set "
           "data.synthetic= removes the block)");
  } else if (!has_files && !data.has_synthetic()) {
    Broken("data", "data is missing: name data.train_files, or give a data.synthetic {} block");
  }
  if (data.has_synthetic() && !has_files && data.validation_files_size() > 0) {
    Broken("data.validation_files",
           "data.validation_files are given beside data.synthetic, which makes its own: remove "
           "them");
  }
  if (job_.evaluate().every_steps() > 0 && has_files && data.validation_files_size() == 0) {
    Broken("evaluate.every_steps",
           absl::StrCat("evaluate.every_steps is ", job_.evaluate().every_steps(),
                        ": evaluation needs data.validation_files; name some, or use 0"));
  }
  if (data.has_synthetic() && data.synthetic().tokens() <= job_.train().sequence_length()) {
    Broken("data.synthetic.tokens",
           absl::StrCat("data.synthetic.tokens is ", data.synthetic().tokens(),
                        ": it must be at least train.sequence_length + 1, ",
                        job_.train().sequence_length() + 1));
  }
  if (files == FileRules::kSkip) return;
  CheckFiles("data.train_files", data.train_files());
  if (!data.has_synthetic()) CheckFiles("data.validation_files", data.validation_files());
  std::error_code ignored;
  if (data.has_tokenizer() && !std::filesystem::is_regular_file(data.tokenizer(), ignored)) {
    Broken("data.tokenizer", absl::StrCat("data.tokenizer names ", data.tokenizer(),
                                          ": wanted a SentencePiece model there, found no file"));
  }
}

void Checker::CheckRecompute() {
  if (job_.recompute().moe() && !job_.model().has_moe()) {
    Broken("recompute.moe",
           "recompute.moe is true: the model has no moe block; use recompute.mlp for a dense one");
  }
}

void Checker::CheckZero(const MeshDegrees& mesh) {
  const int shard = job_.zero().shard_ranks();
  if (shard > 0 && job_.zero().level() == 0) {
    Broken("zero.shard_ranks", absl::StrCat("zero.shard_ranks is ", shard,
                                            ": zero.level 0 shards nothing; use zero.level 1 to 3, "
                                            "or zero.shard_ranks 0"));
    return;
  }
  if (mesh.dp < 1 || shard <= 0) return;
  std::vector<std::string> sentences;
  parallel::CheckShards(mesh, &sentences);
  AddSentences(sentences);
}

void Checker::CheckDevice() {
  if (job_.device() == CUDA && !kernels::kBuiltWithCuda) {
    Broken("device", "device is CUDA: this build has no CUDA backend; use CPU");
  }
  if (job_.precision().compute() == fp64 && job_.device() != CPU) {
    Broken("precision.compute",
           "precision.compute is fp64: only the CPU has it; use bf16 or fp32, or device: CPU");
  }
}

// What has no kernel on GPUs, or only a slow one that nobody asked for.
void Checker::CheckAttention() {
  if (job_.device() != CUDA || job_.precision().compute() == fp64 ||
      AnyBroken({"precision", "model.head_size", "model.heads", "model.hidden"})) {
    return;
  }
  const bool bf16_compute = job_.precision().compute() == bf16;
  const kernels::AttentionKernel kernel = AttentionKernelOf(job_.precision());
  const bool fused = bf16_compute && kernel == kernels::AttentionKernel::kCudnn;
  const int64_t size = job_.model().head_size();
  const std::string problem = kernels::HeadSizeProblem(
      kernel, bf16_compute ? kernels::DType::kBFloat16 : kernels::DType::kFloat32, size, size);
  if (size > 0 && !problem.empty()) {
    const int64_t nearest =
        std::min(kernels::kMaxAttentionHeadSize,
                 NearestMultiple(size, fused ? kernels::kFusedHeadSizeUnit : 2));
    const bool direct_takes_it = fused && size <= kernels::kMaxAttentionHeadSize;
    Broken("model.head_size",
           absl::StrCat("model.head_size is ", size, ": on GPUs ", problem, "; the nearest is ",
                        nearest,
                        direct_takes_it ? ", or set precision.attention_kernel=DIRECT, which is "
                                          "some hundred times slower"
                                        : ""));
  }
  if (fused && kernels::kBuiltWithCuda && kernels::CudnnVersion().empty()) {
    Broken("precision.attention_kernel",
           "precision.attention_kernel is CUDNN: this build has no cuDNN; build with it "
           "(launch/fetch_cudnn_frontend), or use DIRECT, which is some hundred times slower");
  }
}

void Checker::CheckFaults(int world_size) {
  if (job_.safety().replica_check_every() > 0 && job_.zero().level() == 3 &&
      !AnyBroken({"zero.level", "safety.replica_check_every"})) {
    Broken("safety.replica_check_every",
           "safety.replica_check_every is given beside zero.level 3, which keeps no replicas of "
           "weights to compare; use 0, and safety.state_check_every");
  }
  if (job_.safety().replay_every() > 0 && job_.device() == CUDA &&
      !job_.precision().deterministic_attention()) {
    Broken("safety.replay_every",
           "safety.replay_every is given beside precision.deterministic_attention: false, with "
           "which a step that is repeated has other bits; use true, or replay_every: 0");
  }
  std::vector<std::string> sentences;
  for (const std::string& plan : job_.faults().plan()) {
    (void)ParseFaultPlan(plan, world_size, &sentences);
  }
  for (const std::string& sentence : sentences) Broken("faults.plan", sentence);
}

void Checker::CheckMemoryTier() {
  const std::string& directory = job_.checkpoint().memory_directory();
  if (directory.empty() || directory.front() != '/') {
    Broken("checkpoint.memory_directory",
           absl::StrCat("checkpoint.memory_directory is \"", directory,
                        "\": wanted the absolute path of a file system in memory, as /dev/shm"));
  }
}

void Checker::CheckNccl() {
  const NcclConfig& nccl = job_.communication().nccl();
  if (AnyBroken({"communication.nccl", "device"})) return;
  const std::pair<const char*, bool> fields[] = {
      {"min_ctas", nccl.min_ctas() != 0},
      {"max_ctas", nccl.max_ctas() != 0},
      {"overlapped_max_ctas", nccl.overlapped_max_ctas() != 0},
      {"cga_cluster_size", nccl.cga_cluster_size() != 0},
      {"cta_policy", nccl.cta_policy() != DEFAULT},
      {"nvls", nccl.nvls()},
      {"sums_in_rank_order", nccl.sums_in_rank_order()}};
  for (const auto& [field, differs] : fields) {
    if (!differs || job_.device() == CUDA) continue;
    const std::string path = absl::StrCat("communication.nccl.", field);
    Broken(path, absl::StrCat(path,
                              " is given: device is CPU, whose ranks talk by MPI, not by "
                              "NCCL; remove it, or use device: CUDA"));
  }
  if (job_.device() != CUDA) return;
  for (const auto& [field, most] : {std::pair<const char*, int>{"max_ctas", nccl.max_ctas()},
                                    {"overlapped_max_ctas", nccl.overlapped_max_ctas()}}) {
    if (most == 0 || nccl.min_ctas() <= most) continue;
    Broken("communication.nccl.min_ctas",
           absl::StrCat("communication.nccl.min_ctas is ", nccl.min_ctas(),
                        ": it must be at most communication.nccl.", field, ", ", most));
  }
  if (nccl.cta_policy() == ZERO && job_.zero().level() == 0) {
    Broken(
        "communication.nccl.cta_policy",
        "communication.nccl.cta_policy is ZERO: copy engines reduce-scatter and gather, but with "
        "zero.level 0 gradients are all-reduced, by blocks; use zero.level 1 or more, or DEFAULT");
  }
}

void Checker::CheckPeak() {
  const absl::Status known = CheckPeakText(job_.goodput().peak());
  if (!known.ok()) Broken("goodput.peak", std::string(known.message()));
}

}  // namespace

MeshDegrees DegreesOf(const Job& job) {
  const Mesh& mesh = job.mesh();
  MeshDegrees degrees;
  degrees.dp = mesh.dp();
  degrees.tp = mesh.tp();
  degrees.cp = mesh.cp();
  degrees.pp = mesh.pp();
  degrees.ep = mesh.ep();
  degrees.etp = mesh.etp();
  degrees.shard = job.zero().shard_ranks();
  std::string ignored;
  parallel::ParseAxisOrder(mesh.order(), &degrees.order, &ignored);  // a rule of its own refuses
  return degrees;
}

kernels::AttentionKernel AttentionKernelOf(const Precision& precision) {
  return precision.attention_kernel() == DIRECT ? kernels::AttentionKernel::kDirect
                                                : kernels::AttentionKernel::kCudnn;
}

int SmallestWorld(const MeshDegrees& degrees) {
  const auto at_least_one = [](int degree) { return std::max(int64_t{1}, int64_t{degree}); };
  const int64_t inner = at_least_one(degrees.tp) * at_least_one(degrees.cp);
  const int64_t expert = at_least_one(degrees.ep) * at_least_one(degrees.etp);
  const int64_t dp = degrees.dp > 0 ? degrees.dp : expert / std::gcd(expert, inner);
  const int64_t world = at_least_one(degrees.pp) * dp * inner;
  return static_cast<int>(std::min<int64_t>(world, std::numeric_limits<int>::max()));
}

// The data-parallel ranks, which follow from fewer fields than the whole mesh: 0 if they do not.
static int64_t DataRanks(const MeshDegrees& wanted, int world_size) {
  if (wanted.dp > 0) return wanted.dp;
  const int world = world_size == 0 ? SmallestWorld(wanted) : world_size;
  const int64_t model = int64_t{wanted.pp} * wanted.cp * wanted.tp;
  return model > 0 && world % model == 0 ? world / model : 0;
}

MeshDegrees CheckJob(const Job& job, int world_size, FileRules files, const FieldOrigins& origins,
                     std::vector<ConfigProblem>* problems) {
  Checker checker(job, origins, problems);
  checker.CheckBounds();
  const MeshDegrees mesh = checker.CheckMesh(world_size);
  checker.CheckOrder();
  checker.CheckModel(mesh);
  checker.CheckBatch(DataRanks(DegreesOf(job), world_size));
  checker.CheckStreamRows(DataRanks(DegreesOf(job), world_size));
  checker.CheckContext();
  checker.CheckPipeline(mesh);
  checker.CheckGraphs(mesh);
  checker.CheckOptimizer();
  checker.CheckData(files);
  checker.CheckDevice();
  checker.CheckAttention();
  checker.CheckNccl();
  checker.CheckRecompute();
  checker.CheckZero(mesh);
  checker.CheckPeak();
  checker.CheckFaults(world_size);
  checker.CheckMemoryTier();
  return mesh;
}

void CheckCommunication(const Job& job, const FieldOrigins& origins,
                        std::vector<ConfigProblem>* problems) {
  Checker checker(job, origins, problems);
  checker.CheckBounds();
  checker.CheckNccl();
}

}  // namespace muster::runtime
