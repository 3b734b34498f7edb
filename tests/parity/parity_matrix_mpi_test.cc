// The parity matrix: a job on every layout computes what it computes on one rank. Run under mpirun
// with 2, 4 and 8 ranks; each takes the layouts of its size. With MUSTER_PARITY_TABLE=FILE, rank 0
// appends a row of docs/benchmarks/parity.md for each layout.
#include <gtest/gtest.h>

#include <cstdio>
#include <cstdlib>
#include <map>
#include <string>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "tests/parity/layouts.h"
#include "tests/parity/train_layout.h"
#include "tests/support/mpi_main.h"
#include "tests/support/runtime/parity_errors.h"

namespace muster::runtime {
namespace {

constexpr int64_t kSteps = 20;

// On one rank, once for each model.
const TrainingRun& Reference(const ParityModel& model) {
  static std::map<std::string, TrainingRun> runs;
  const auto [run, is_new] = runs.try_emplace(model.name);
  if (is_new) {
    const std::unique_ptr<parallel::World> alone = parallel::World::Alone();
    run->second = TrainModel(*alone, model, "", kSteps);
  }
  return run->second;
}

void AppendRow(const Layout& layout, const ParityErrors& errors) {
  const char* path = std::getenv("MUSTER_PARITY_TABLE");
  if (path == nullptr || parallel::TestWorld().rank() != 0) return;
  std::FILE* file = std::fopen(path, "a");
  ASSERT_NE(file, nullptr) << path;
  absl::FPrintF(file, "| %s | %d | `%s` | %.1e | %.1e |\n", layout.model, layout.ranks,
                layout.overrides, errors.loss, errors.gradient);
  std::fclose(file);
}

class ParityMatrix : public testing::TestWithParam<Layout> {};

TEST_P(ParityMatrix, EqualsOneRank) {
  const Layout& layout = GetParam();
  if (layout.ranks != parallel::TestWorld().size()) {
    GTEST_SKIP() << "wants " << layout.ranks << " ranks";
  }
  const ParityModel& model = ParityModelNamed(layout.model);
  const TrainingRun& one = Reference(model);
  const TrainingRun many = TrainModel(parallel::TestWorld(), model, layout.overrides, kSteps);
  AppendRow(layout, ExpectEqualToOneRank(one, many, parallel::TestWorld()));
}

INSTANTIATE_TEST_SUITE_P(Layouts, ParityMatrix, testing::ValuesIn(AllLayouts()), LayoutName);

TEST(ParityMatrixItself, HasAtLeastEightyLayoutsEachOnce) {
  std::map<std::string, int> seen;
  for (const Layout& layout : AllLayouts()) {
    ++seen[absl::StrCat(layout.model, " ", layout.ranks, " ", layout.overrides)];
  }
  EXPECT_GE(seen.size(), 80u);
  for (const auto& [layout, times] : seen) EXPECT_EQ(times, 1) << layout;
}

}  // namespace
}  // namespace muster::runtime
