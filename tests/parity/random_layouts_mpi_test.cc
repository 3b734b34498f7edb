// Whatever the config rules call legal computes what one rank computes: layouts drawn at random
// from all that a job can say of mesh, schedule, microbatches, ZeRO, recomputation and overlap, and
// kept if `muster check` would find no problem. Run under mpirun with 2, 4 and 8 ranks.
//   MUSTER_RANDOM_SEED=7 MUSTER_RANDOM_LAYOUTS=200 mpirun -np 8 muster_parity_test
//       --gtest_filter='RandomLayouts.*'      (in one line)
#include <gtest/gtest.h>

#include <cstdio>
#include <cstdlib>
#include <initializer_list>
#include <map>
#include <random>
#include <string>
#include <vector>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"
#include "runtime/job/config.h"
#include "tests/parity/layouts.h"
#include "tests/support/mpi_main.h"
#include "tests/support/runtime/parity_errors.h"
#include "tests/support/runtime/training_run.h"

namespace muster::runtime {
namespace {

constexpr int64_t kSteps = 2;

int FromEnvironment(const char* name, int otherwise) {
  const char* text = std::getenv(name);
  int value = otherwise;
  MUSTER_CHECK(text == nullptr || absl::SimpleAtoi(text, &value)) << name << " is " << text;
  return value;
}

struct Draw {
  std::string model;
  std::vector<std::string> overrides;
  ResolvedJob job;
};

class LayoutDealer {
 public:
  LayoutDealer(int seed, int ranks) : random_(static_cast<unsigned>(seed)), ranks_(ranks) {}

  // The next legal layout.
  Draw Next() {
    for (;;) {
      Draw draw{Pick<const char*>({"llama", "llama8", "gpt2", "moe", "moe-bias", "moe-capacity"}),
                {},
                {}};
      const ParityModel& model = ParityModelNamed(draw.model);
      draw.overrides = Overrides();
      std::vector<std::string> all = absl::StrSplit(model.overrides, ' ', absl::SkipEmpty());
      all.insert(all.end(), draw.overrides.begin(), draw.overrides.end());
      std::vector<ConfigProblem> problems;
      ++num_drawn_;
      if (LoadJob(absl::StrCat(MUSTER_SOURCE_DIR, "/configs/jobs/", model.config), all, ranks_,
                  &draw.job, &problems)) {
        return draw;
      }
    }
  }
  int num_drawn() const { return num_drawn_; }

 private:
  // Not std::uniform_int_distribution, which gives other numbers in other libraries.
  template <typename T>
  T Pick(std::initializer_list<T> from) {
    return *(from.begin() + random_() % from.size());
  }
  std::vector<std::string> Overrides() {
    std::vector<std::string> overrides;
    const auto set = [&](const char* key, const auto& value) {
      overrides.push_back(absl::StrCat(key, "=", value));
    };
    for (const char* axis : {"tp", "cp", "pp", "ep", "etp"}) {
      set(absl::StrCat("mesh.", axis).c_str(), Pick({1, 1, 2, 2, 4, 8}));
    }
    set("mesh.order",
        Pick({"tp-cp-dp-pp", "tp-cp-dp-pp", "cp-tp-pp-dp", "pp-dp-cp-tp", "tp-dp-pp-cp"}));
    set("mesh.sequence_parallel", Pick({"true", "true", "false"}));
    set("mesh.context_exchange", Pick({"RING", "ALL_GATHER"}));
    set("schedule.kind", Pick({"one_f_one_b", "interleaved_1f1b", "zb_h1", "zb_v", "dualpipev"}));
    set("schedule.microbatches", Pick({1, 2, 3, 4, 6, 8}));
    set("schedule.virtual_stages", Pick({1, 2, 3}));
    set("schedule.layers_per_stage", Pick({"", "", "", "1,3", "2,1,1", "1,3,2,2"}));
    set("zero.level", Pick({0, 1, 2, 3}));
    set("zero.shard_ranks", Pick({0, 0, 1, 2, 4}));
    for (const char* module : {"attention", "mlp", "moe", "norm", "block"}) {
      set(absl::StrCat("recompute.", module).c_str(), Pick({"true", "false", "false"}));
    }
    set("communication.overlap", Pick({"true", "false"}));
    set("communication.bucket_megabytes", Pick({"0.02", "0.1", "1"}));
    return overrides;
  }
  std::mt19937 random_;
  const int ranks_;
  int num_drawn_ = 0;
};

TrainingRun TrainModel(parallel::World& world, const ParityModel& model,
                       const std::vector<std::string>& overrides) {
  std::vector<std::string> all = absl::StrSplit(model.overrides, ' ', absl::SkipEmpty());
  all.insert(all.end(), overrides.begin(), overrides.end());
  return Train(world, model.config, all, kSteps);
}

const TrainingRun& Reference(const ParityModel& model) {
  static std::map<std::string, TrainingRun> runs;
  const auto [run, is_new] = runs.try_emplace(model.name);
  if (is_new) run->second = TrainModel(*parallel::World::Alone(), model, {});
  return run->second;
}

TEST(RandomLayouts, EqualOneRank) {
  parallel::World& world = parallel::TestWorld();
  if (world.size() == 1) GTEST_SKIP() << "wants several ranks";
  const int seed = FromEnvironment("MUSTER_RANDOM_SEED", 20261122);
  const int count = FromEnvironment("MUSTER_RANDOM_LAYOUTS", world.size() == 2 ? 10 : 20);
  LayoutDealer dealer(seed, world.size());
  std::map<std::string, int> seen;  // how often an axis had several ranks
  for (int i = 0; i < count; ++i) {
    const Draw draw = dealer.Next();
    const std::string name =
        absl::StrCat("seed ", seed, ", layout ", i, ": ", draw.model, " on ",
                     draw.job.mesh.ToString(), "; ", absl::StrJoin(draw.overrides, " "));
    SCOPED_TRACE(name);
    if (world.rank() == 0) std::fprintf(stderr, "%s\n", name.c_str());  // before it can end us
    const parallel::MeshDegrees& mesh = draw.job.mesh;
    for (const auto& [axis, degree] :
         {std::pair("dp", mesh.dp), std::pair("tp", mesh.tp), std::pair("cp", mesh.cp),
          std::pair("pp", mesh.pp), std::pair("ep", mesh.ep), std::pair("etp", mesh.etp)}) {
      seen[axis] += degree > 1;
    }
    const ParityModel& model = ParityModelNamed(draw.model);
    const TrainingRun& one = Reference(model);
    const TrainingRun many = TrainModel(world, model, draw.overrides);
    ExpectWithinTolerance(CompareWithOneRank(one, many, world));
  }
  if (world.rank() == 0) {
    std::fprintf(stderr, "%d legal layouts of %d drawn\n", count, dealer.num_drawn());
  }
  if (count < 20) return;
  for (const auto& [axis, times] : seen)
    EXPECT_GT(times, 0) << "no layout had several ranks of " << axis;
}

}  // namespace
}  // namespace muster::runtime
