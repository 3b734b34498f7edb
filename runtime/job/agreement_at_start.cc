// CheckAgreement of runtime/job/run_directory.h: hashes first, and the fields only if they differ.
#include <map>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"
#include "kernels/base/error.h"
#include "kernels/base/hash.h"
#include "runtime/job/fault_plan.h"
#include "runtime/job/field_path.h"
#include "runtime/job/mapped_file.h"
#include "runtime/job/run_directory.h"

namespace muster::runtime {
namespace {

constexpr char kBuildField[] = "(build)";

// What runs on this rank: the version that it says, and the bytes of its program.
std::string Build(const std::string& version) {
  const absl::StatusOr<MappedFile> program = MappedFile::Open("/proc/self/exe");
  const std::string bytes =
      program.ok() ? kernels::HexDigits(kernels::Hash64(program->data(), program->size())) : "?";
  return absl::StrCat(version, " program ", bytes);
}

// "path\tvalue" lines.
std::string Fields(const ResolvedJob& job, std::string build) {
  for (char& c : build) {
    if (c == '\n' || c == '\t') c = ' ';
  }
  std::string text = absl::StrCat(kBuildField, "\t", build, "\n");
  for (const auto& [path, value] : FieldValues(job.job)) {
    absl::StrAppend(&text, path, "\t", value, "\n");
  }
  return text;
}

}  // namespace

std::string DescribeDisagreement(const std::vector<std::string>& fields_by_rank) {
  // field -> value -> ranks
  std::map<std::string, std::map<std::string, std::vector<int>>> values;
  const int num_ranks = static_cast<int>(fields_by_rank.size());
  std::vector<std::map<std::string, std::string>> by_rank(fields_by_rank.size());
  for (int rank = 0; rank < num_ranks; ++rank) {
    const auto index = static_cast<size_t>(rank);
    for (const absl::string_view line :
         absl::StrSplit(fields_by_rank[index], '\n', absl::SkipEmpty())) {
      const std::vector<std::string> words = absl::StrSplit(line, absl::MaxSplits('\t', 1));
      by_rank[index][words[0]] = words.back();
      values[words[0]];
    }
  }
  std::string text;
  for (auto& [field, sides] : values) {
    for (int rank = 0; rank < num_ranks; ++rank) {
      const auto& own = by_rank[static_cast<size_t>(rank)];
      const auto value = own.find(field);
      sides[value == own.end() ? "not given" : value->second].push_back(rank);
    }
    if (sides.size() < 2) continue;
    absl::StrAppend(&text, "\n  ", field, ":");
    for (const auto& [value, ranks] : sides) {
      absl::StrAppend(&text, " ", value, " on rank ", absl::StrJoin(ranks, ", "), ";");
    }
    text.pop_back();
  }
  return text;
}

absl::Status CheckAgreement(const ResolvedJob& job, const std::string& version,
                            parallel::World& world) {
  std::string build = Build(version);
  const auto& plans = job.job.faults().plan();
  if (PlansOtherBuild({plans.begin(), plans.end()}, world.rank())) build += " (planned fault)";
  ASSIGN_OR_RETURN(const std::vector<std::string> hashes,
                   world.GatherText(kernels::HexDigits(job.hash) + " " + build));
  bool equal = true;
  for (const std::string& hash : hashes) equal = equal && hash == hashes.front();
  if (equal) return absl::OkStatus();
  ASSIGN_OR_RETURN(const std::vector<std::string> fields, world.GatherText(Fields(job, build)));
  return absl::FailedPreconditionError(
      "ranks disagree; start every rank with the same binary, config and --set options" +
      DescribeDisagreement(fields));
}

}  // namespace muster::runtime
