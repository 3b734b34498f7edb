#include "tests/parity/train_layout.h"

#include <cctype>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"

namespace muster::runtime {

TrainingRun TrainModel(parallel::World& world, const ParityModel& model,
                       const std::string& overrides, int64_t steps) {
  std::vector<std::string> all = absl::StrSplit(model.overrides, ' ', absl::SkipEmpty());
  for (const absl::string_view text : absl::StrSplit(overrides, ' ', absl::SkipEmpty())) {
    all.emplace_back(text);
  }
  return Train(world, model.config, all, steps);
}

std::string LayoutName(const testing::TestParamInfo<Layout>& info) {
  std::string name =
      absl::StrCat(info.param.model, "_", info.param.ranks, "_", info.param.overrides);
  for (char& c : name) {
    if (!std::isalnum(static_cast<unsigned char>(c))) c = '_';
  }
  return name;
}

}  // namespace muster::runtime
