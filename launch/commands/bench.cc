#include "launch/commands/bench.h"

#include <CLI/CLI.hpp>
#include <memory>
#include <string>
#include <vector>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "kernels/base/error.h"
#include "launch/bench/collectives.h"
#include "launch/bench/operators.h"
#include "launch/bench/step.h"
#include "launch/exit_codes.h"
#include "launch/job_options.h"
#include "launch/rank_env.h"
#include "runtime/job/run_directory.h"

namespace muster::launch {
namespace {

using kernels::Device;
using kernels::DeviceType;
using kernels::DType;

// "16x1024x25" -> numbers. Errors: not `fewest` to `most` positive numbers.
absl::StatusOr<std::vector<int64_t>> ParseShape(const std::string& text, size_t fewest, size_t most,
                                                const char* form) {
  const std::vector<std::string> parts = absl::StrSplit(text, 'x');
  std::vector<int64_t> numbers;
  for (const std::string& part : parts) {
    int64_t number = 0;
    if (!absl::SimpleAtoi(part, &number) || number < 1) break;
    numbers.push_back(number);
  }
  if (numbers.size() == parts.size() && fewest <= parts.size() && parts.size() <= most) {
    return numbers;
  }
  return absl::InvalidArgumentError(
      absl::StrCat("--shape ", text, ": wanted ", form, ", positive numbers"));
}

class BenchCommand : public Command {
 public:
  void Declare(CLI::App& app) override {
    app.add_flag("--json", json_, "print one JSON object instead of text");
  }
  int Run(Console console) override {
    const absl::StatusOr<BenchTable> table = Measure();
    if (!table.ok()) {
      console.err << "muster bench " << text().name << ": " << table.status().message() << "\n";
      return table.status().code() == absl::StatusCode::kInvalidArgument ? kExitUsage
                                                                         : kExitFailure;
    }
    if (speaks_) console.out << (json_ ? RenderJson(*table) : RenderText(*table));
    return kExitDone;
  }

 protected:
  virtual absl::StatusOr<BenchTable> Measure() = 0;
  void DeclareDevice(CLI::App& app) {
    app.add_option("--device", device_, "cpu or cuda (default: cuda if there is one)")
        ->type_name("NAME");
  }
  // Errors: neither, or not here.
  absl::StatusOr<Device> DeviceOf(int index) const {
    const bool has_cuda = kernels::DeviceCount(DeviceType::kCuda) > index;
    if (device_ == "cpu" || (device_.empty() && !has_cuda)) return Device{};
    if ((device_ == "cuda" || device_.empty()) && has_cuda) {
      return Device{DeviceType::kCuda, index};
    }
    return absl::InvalidArgumentError(
        absl::StrCat("--device ", device_,
                     ": wanted cpu, or cuda where there is one; this process "
                     "sees ",
                     kernels::DeviceCount(DeviceType::kCuda), " CUDA devices"));
  }
  bool speaks_ = true;

 private:
  bool json_ = false;
  std::string device_;
};

// Operators on one device.
class OperatorCommand : public BenchCommand {
 public:
  void Declare(CLI::App& app) override {
    DeclareDevice(app);
    app.add_option("--dtype", dtype_, "bf16 or fp32 (default: bf16 on CUDA, fp32 on CPU)")
        ->type_name("NAME");
    app.add_option("--shape", shapes_, "only this shape; repeatable")
        ->type_name("SHAPE")
        ->allow_extra_args(false);
    BenchCommand::Declare(app);
  }

 protected:
  absl::StatusOr<DType> DTypeOf(Device device) const {
    if (dtype_.empty()) {
      return device.type == DeviceType::kCpu ? DType::kFloat32 : DType::kBFloat16;
    }
    if (dtype_ == "bf16") return DType::kBFloat16;
    if (dtype_ == "fp32") return DType::kFloat32;
    return absl::InvalidArgumentError(absl::StrCat("--dtype ", dtype_, ": wanted bf16 or fp32"));
  }
  std::vector<std::string> shapes_;

 private:
  std::string dtype_;
};

class GemmCommand : public OperatorCommand {
 public:
  CommandText text() const override {
    return {"gemm", "matrix products of linear layers",
            "SHAPE is MxNxK: M tokens through a weight [N, K]; forward and both gradients.",
            "muster bench gemm --shape 4096x4096x4096"};
  }

 protected:
  absl::StatusOr<BenchTable> Measure() override {
    ASSIGN_OR_RETURN(const Device device, DeviceOf(0));
    ASSIGN_OR_RETURN(const DType dtype, DTypeOf(device));
    std::vector<GemmShape> shapes;
    for (const std::string& text : shapes_) {
      ASSIGN_OR_RETURN(const std::vector<int64_t> n, ParseShape(text, 3, 3, "MxNxK"));
      shapes.push_back({n[0], n[1], n[2]});
    }
    return BenchGemm(shapes.empty() ? UsualGemms(device) : shapes, device, dtype);
  }
};

class AttentionCommand : public OperatorCommand {
 public:
  CommandText text() const override {
    return {
        "attention", "causal attention, forward and backward",
        "SHAPE is BxSxHxKxC: B sequences of S tokens, H heads, K of keys and values, C wide; or "
        "BxSxHxKxCxV with values V wide.",
        "muster bench attention --shape 8x1024x16x16x64"};
  }

 protected:
  absl::StatusOr<BenchTable> Measure() override {
    ASSIGN_OR_RETURN(const Device device, DeviceOf(0));
    ASSIGN_OR_RETURN(const DType dtype, DTypeOf(device));
    std::vector<AttentionShape> shapes;
    for (const std::string& text : shapes_) {
      ASSIGN_OR_RETURN(const std::vector<int64_t> n,
                       ParseShape(text, 5, 6, "BxSxHxKxC or BxSxHxKxCxV"));
      if (n[2] % n[3] != 0) {
        return absl::InvalidArgumentError(
            absl::StrCat("--shape ", text, ": wanted H, ", n[2], ", as a multiple of K, ", n[3]));
      }
      shapes.push_back({n[0], n[1], n[2], n[3], n[4], n.back()});
    }
    return BenchAttention(shapes.empty() ? UsualAttentions(device) : shapes, device, dtype);
  }
};

class CollectivesCommand : public BenchCommand {
 public:
  CommandText text() const override {
    return {"collectives", "collectives over all ranks; run it under mpirun",
            "Bus bandwidth of all-reduce, reduce-scatter, all-gather and all-to-all, by size. Of "
            "CONFIG and --set only communication is read, as NCCL's options.",
            "mpirun -np 4 muster bench collectives --mib 64 --set communication.nccl.max_ctas=8"};
  }
  void Declare(CLI::App& app) override {
    AddJobOptions(app, &options_);
    app.get_option("CONFIG")->required(false);
    DeclareDevice(app);
    app.add_option("--mib", mebibytes_,
                   "size of the tensor; repeatable (default: 1, 16, 64, and on GPUs 256 and 1024)")
        ->type_name("N")
        ->allow_extra_args(false);
    BenchCommand::Declare(app);
  }

 protected:
  absl::StatusOr<BenchTable> Measure() override {
    ASSIGN_OR_RETURN(const RankEnv env, ReadRankEnv(CurrentEnvironment()));
    speaks_ = env.rank == 0;
    ASSIGN_OR_RETURN(const Device device, DeviceOf(env.local_rank));
    const bool on_gpus = device.type == DeviceType::kCuda;
    runtime::Communication communication;
    std::vector<runtime::ConfigProblem> problems;
    if (!runtime::LoadCommunication(options_.config, options_.overrides,
                                    on_gpus ? runtime::CUDA : runtime::CPU, &communication,
                                    &problems)) {
      return absl::InvalidArgumentError(runtime::Describe(
          problems, options_.config.empty() ? "the command line" : options_.config));
    }
    if (mebibytes_.empty()) {
      mebibytes_ = {1, 16, 64};
      if (on_gpus) mebibytes_.insert(mebibytes_.end(), {256, 1024});
    }
    std::vector<int64_t> bytes;
    for (const double size : mebibytes_) {
      if (!(size > 0 && size <= 65536)) {
        return absl::InvalidArgumentError(
            absl::StrCat("--mib ", size, ": wanted more than 0 and at most 65536"));
      }
      bytes.push_back(static_cast<int64_t>(size * 1048576));
    }
    ASSIGN_OR_RETURN(const std::unique_ptr<parallel::World> world,
                     parallel::World::Create(WorldOptionsOf(communication)));
    ASSIGN_OR_RETURN(BenchTable table, BenchCollectives(bytes, device, *world));
    const std::string nccl = communication.nccl().ShortDebugString();
    if (on_gpus) table.facts.emplace_back("NCCL", nccl.empty() ? "its own choices" : nccl);
    return table;
  }

 private:
  JobOptions options_;
  std::vector<double> mebibytes_;
};

class StepCommand : public BenchCommand {
 public:
  CommandText text() const override {
    return {"step", "training steps of a job, and where the time of one goes",
            "One traced step, operator by operator, each against what its FLOPs and bytes take at\n"
            "the measured ceilings. Leaves a run directory, as train does.",
            "muster bench step configs/jobs/tiny-dense.textproto"};
  }
  void Declare(CLI::App& app) override {
    AddJobOptions(app, &options_);
    app.add_option("--steps", steps_, "timed steps, after 5 to warm up (default: 20)")
        ->type_name("N");
    app.add_option("--run", run_, "the run directory (default: runs/<name>-<time>)")
        ->type_name("DIR");
    BenchCommand::Declare(app);
  }

 protected:
  absl::StatusOr<BenchTable> Measure() override {
    if (steps_ < 1) {
      return absl::InvalidArgumentError(absl::StrCat("--steps ", steps_, ": wanted at least 1"));
    }
    ASSIGN_OR_RETURN(const RankEnv env, ReadRankEnv(CurrentEnvironment()));
    speaks_ = env.rank == 0;
    std::vector<std::string> overrides = options_.overrides;
    overrides.insert(overrides.end(), {"log.progress=false", "log.tensorboard=false"});
    runtime::ResolvedJob job;
    std::vector<runtime::ConfigProblem> problems;
    if (!runtime::LoadJob(options_.config, overrides, env.size, &job, &problems)) {
      return absl::InvalidArgumentError(runtime::Describe(problems, options_.config));
    }
    ASSIGN_OR_RETURN(const std::unique_ptr<parallel::World> world,
                     parallel::World::Create(WorldOptionsOf(job.job.communication())));
    ASSIGN_OR_RETURN(const runtime::RunDirectory directory,
                     runtime::PrepareRunDirectory(
                         {.path = run_, .resume = runtime::ResumeMode::kNever}, job, *world));
    return BenchStep(job, *world, directory.path, steps_);
  }

 private:
  JobOptions options_;
  int steps_ = 20;
  std::string run_;
};

class Bench : public Command {
 public:
  CommandText text() const override {
    return {"bench", "speed of this machine at what training does, beside its limits",
            "Each result stands beside its limit, most of them measured in the same run.",
            "muster bench gemm --json"};
  }
  std::vector<std::unique_ptr<Command>> Parts() override {
    std::vector<std::unique_ptr<Command>> parts;
    parts.push_back(std::make_unique<GemmCommand>());
    parts.push_back(std::make_unique<AttentionCommand>());
    parts.push_back(std::make_unique<CollectivesCommand>());
    parts.push_back(std::make_unique<StepCommand>());
    return parts;
  }
  int Run(Console) override { return kExitUsage; }
};

}  // namespace

std::unique_ptr<Command> MakeBench() { return std::make_unique<Bench>(); }

}  // namespace muster::launch
