#include "runtime/job/fault_plan.h"

#include <algorithm>
#include <array>
#include <map>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"
#include "runtime/job/nearest_name.h"

namespace muster::runtime {
namespace {

struct KindFacts {
  const char* name;
  std::vector<std::string> keys;  // besides rank and step
};

const std::array<KindFacts, 22>& Kinds() {
  static const std::array<KindFacts, 22> kKinds = {
      {{"crash", {"at"}},
       {"abort", {"at"}},
       {"exit", {"at", "code"}},
       {"stop", {"at"}},
       {"preempt", {"at", "signal"}},
       {"device_error", {"at"}},
       {"supervisor", {"at"}},
       {"damage", {"at", "how"}},
       {"skip", {"at", "group"}},
       {"slow", {"share", "steps"}},
       {"slow_data", {"seconds", "steps"}},
       {"nan", {"tensor", "passes"}},
       {"flip_gradient", {"tensor", "bit", "passes"}},
       {"flip_activation", {"tensor", "bit", "passes"}},
       {"flip", {"at", "tensor", "of", "bit"}},
       {"config", {"set"}},
       {"build", {}},
       {"disk_error", {"call", "on", "tier"}},
       {"disk_full", {"on", "steps", "tier"}},
       {"disk_crash", {"call", "on", "tier"}},
       {"disk_exit", {"call", "on", "tier", "code"}},
       {"disk_slow", {"seconds", "on", "steps", "tier"}}}};
  return kKinds;
}

const std::vector<std::string>& Instants() {
  static const std::vector<std::string> kInstants = {"begin",   "data",    "backward",
                                                     "reduced", "updated", "evaluate"};
  return kInstants;
}

std::string DidYouMean(const std::string& name, const std::vector<std::string>& names) {
  const std::string nearest = NearestName(name, names);
  return nearest.empty() ? absl::StrCat("; known: ", absl::StrJoin(names, ", "))
                         : absl::StrCat("; did you mean ", nearest, "?");
}

// Reads key=value words into a fault.
class Reader {
 public:
  Reader(const std::string& plan, std::vector<std::string>* problems)
      : plan_(plan), problems_(problems) {}

  void Wrong(const std::string& what) {
    problems_->push_back(absl::StrCat("faults.plan \"", plan_, "\": ", what));
  }
  template <typename T>
  void Whole(const std::string& value, const char* key, int64_t low, int64_t high, T* out) {
    int64_t number = 0;
    if (absl::SimpleAtoi(value, &number) && number >= low && number <= high) {
      *out = static_cast<T>(number);
    } else {
      Wrong(
          absl::StrCat(key, " is ", value, ": it must be a whole number from ", low, " to ", high));
    }
  }
  void Real(const std::string& value, const char* key, double high, double* out) {
    if (absl::SimpleAtod(value, out) && *out > 0 && *out <= high) return;
    Wrong(absl::StrCat(key, " is ", value, ": it must be above 0 and at most ", high));
  }
  // `names` are those of T's values.
  template <typename T>
  void OneOf(const std::string& value, const char* key, const std::vector<std::string>& names,
             T* out) {
    const auto name = std::find(names.begin(), names.end(), value);
    if (name == names.end()) {
      Wrong(absl::StrCat(key, " is ", value, DidYouMean(value, names)));
    } else {
      *out = static_cast<T>(name - names.begin());
    }
  }
  void Read(const std::string& key, const std::string& value, PlannedFault* fault) {
    constexpr int64_t kMost = int64_t{1} << 40;
    if (key == "rank") Whole(value, "rank", 0, 1 << 24, &fault->rank);
    if (key == "step") Whole(value, "step", 1, kMost, &fault->step);
    if (key == "steps") Whole(value, "steps", 0, kMost, &fault->steps);
    if (key == "call") Whole(value, "call", 1, kMost, &fault->call);
    if (key == "passes") Whole(value, "passes", 0, kMost, &fault->passes);
    if (key == "code") Whole(value, "code", 0, 255, &fault->code);
    if (key == "bit") Whole(value, "bit", 0, 63, &fault->bit);
    if (key == "seconds") Real(value, "seconds", 3600, &fault->seconds);
    if (key == "share") Real(value, "share", 100, &fault->share);
    if (key == "group") fault->group = value;
    if (key == "tensor") fault->tensor = value;
    if (key == "on") fault->on = value;
    if (key == "set") fault->set = value;
    if (key == "at") OneOf(value, "at", Instants(), &fault->at);
    if (key == "of") OneOf(value, "of", {"weight", "master", "moment1", "moment2"}, &fault->of);
    if (key == "how") OneOf(value, "how", {"flip", "truncate", "remove"}, &fault->how);
    if (key == "tier") OneOf(value, "tier", {"disk", "memory"}, &fault->tier);
    if (key == "signal") OneOf(value, "signal", {"term", "usr1"}, &fault->signal);
  }

 private:
  const std::string& plan_;
  std::vector<std::string>* problems_;
};

}  // namespace

bool IsDiskFault(FaultKind kind) { return kind >= FaultKind::kDiskError; }

bool HappensInPasses(FaultKind kind) {
  return kind == FaultKind::kNan || kind == FaultKind::kFlipGradient ||
         kind == FaultKind::kFlipActivation;
}

const char* Name(FaultKind kind) { return Kinds()[static_cast<size_t>(kind)].name; }

PlannedFault ParseFaultPlan(const std::string& plan, int world_size,
                            std::vector<std::string>* problems) {
  Reader reader(plan, problems);
  PlannedFault fault;
  const std::vector<std::string> words = absl::StrSplit(plan, ' ', absl::SkipEmpty());
  std::vector<std::string> names;
  for (const KindFacts& facts : Kinds()) names.push_back(facts.name);
  const auto name = words.empty() ? names.end() : std::find(names.begin(), names.end(), words[0]);
  if (name == names.end()) {
    reader.Wrong(words.empty() ? "wanted a kind of fault, found nothing"
                               : "no such kind of fault" + DidYouMean(words[0], names));
    return fault;
  }
  const auto index = static_cast<size_t>(name - names.begin());
  fault.kind = static_cast<FaultKind>(index);
  if (fault.kind == FaultKind::kNan) fault.passes = 0;
  if (fault.kind == FaultKind::kFlip) fault.at = Instant::kUpdated;
  if (fault.kind == FaultKind::kSlowData) fault.at = Instant::kData;
  std::vector<std::string> keys = Kinds()[index].keys;
  keys.insert(keys.end(), {"rank", "step"});
  std::map<std::string, std::string> given;
  for (size_t i = 1; i < words.size(); ++i) {
    const size_t equals = words[i].find('=');
    const std::string key = words[i].substr(0, equals);
    if (equals == std::string::npos) {
      reader.Wrong(absl::StrCat("wanted key=value, found ", words[i]));
    } else if (std::find(keys.begin(), keys.end(), key) == keys.end()) {
      reader.Wrong(absl::StrCat(names[index], " has no key ", key, DidYouMean(key, keys)));
    } else if (!given.emplace(key, words[i].substr(equals + 1)).second) {
      reader.Wrong(absl::StrCat(key, " is given twice"));
    } else {
      reader.Read(key, given[key], &fault);
    }
  }
  if (fault.kind == FaultKind::kSlow && !given.contains("share")) reader.Wrong("wants share=");
  const bool takes_seconds =
      fault.kind == FaultKind::kSlowData || fault.kind == FaultKind::kDiskSlow;
  if (takes_seconds && !given.contains("seconds")) {
    reader.Wrong("wants seconds=");
  }
  if (fault.kind == FaultKind::kConfig && fault.set.find('=') == std::string::npos) {
    reader.Wrong("wants set=key=value");
  }
  if (world_size > 0 && fault.rank >= world_size) {
    reader.Wrong(absl::StrCat("rank is ", fault.rank, ": the world has ", world_size,
                              " ranks; the nearest is ", world_size - 1));
  }
  return fault;
}

namespace {

// The valid plans of one kind and rank.
std::vector<PlannedFault> FaultsOf(const std::vector<std::string>& plans, FaultKind kind,
                                   int rank) {
  std::vector<PlannedFault> faults;
  for (const std::string& plan : plans) {
    std::vector<std::string> problems;
    PlannedFault fault = ParseFaultPlan(plan, 0, &problems);
    if (problems.empty() && fault.kind == kind && fault.rank == rank) {
      faults.push_back(std::move(fault));
    }
  }
  return faults;
}

}  // namespace

std::vector<std::string> PlannedOverrides(const std::vector<std::string>& plans, int rank) {
  std::vector<std::string> overrides;
  for (PlannedFault& fault : FaultsOf(plans, FaultKind::kConfig, rank)) {
    overrides.push_back(std::move(fault.set));
  }
  return overrides;
}

bool PlansOtherBuild(const std::vector<std::string>& plans, int rank) {
  return !FaultsOf(plans, FaultKind::kBuild, rank).empty();
}

}  // namespace muster::runtime
