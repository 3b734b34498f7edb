#include "runtime/train/step_trace.h"

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <sstream>
#include <system_error>
#include <utility>

#include "kernels/base/error.h"
#include "kernels/base/log.h"
#include "kernels/device/span.h"
#include "runtime/checkpoint/agreement.h"
#include "runtime/job/atomic_file.h"
#include "runtime/train/clock_exchange.h"

namespace muster::runtime {
namespace {

using Json = nlohmann::ordered_json;
using kernels::Trace;

constexpr int kMaxIntervals = 1 << 16;
constexpr int kMostRows = 256;  // of a rank

const char* NameOf(kernels::TraceKind kind) {
  switch (kind) {
    case kernels::TraceKind::kScope:
      return "span";
    case kernels::TraceKind::kOperator:
      return "operator";
    case kernels::TraceKind::kCollective:
      return "collective";
  }
  return "span";
}

double Microseconds(int64_t ns) { return static_cast<double>(ns) * 1e-3; }

// Readers take process 0 for the idle one, and the same row of two processes for one thread.
int ProcessOf(int rank) { return rank + 1; }
int ThreadOf(int rank, size_t row) {
  MUSTER_CHECK(row < kMostRows);
  return ProcessOf(rank) * kMostRows + static_cast<int>(row);
}

Json Metadata(int rank, const char* name, Json arguments, size_t row = 0) {
  return {{"name", name},
          {"ph", "M"},
          {"pid", ProcessOf(rank)},
          {"tid", ThreadOf(rank, row)},
          {"args", std::move(arguments)}};
}

Json Arguments(const Trace::Interval& interval) {
  Json arguments = Json::object();
  const kernels::TracedWork& work = interval.work;
  const auto ns = static_cast<double>(std::max<int64_t>(interval.end_ns - interval.begin_ns, 1));
  if (!work.detail.empty()) arguments["what"] = work.detail;
  if (work.flops > 0) arguments["TFLOP/s"] = work.flops / ns * 1e-3;
  if (work.bytes > 0) arguments["GB/s"] = work.bytes / ns;
  return arguments;
}

std::string PartName(const std::string& path, int rank) {
  return path + ".part-" + std::to_string(rank);
}

}  // namespace

std::string TraceEvents(const TracedRank& rank) {
  std::string text;
  const auto add = [&](const Json& event) { text += event.dump() + ",\n"; };
  add(Metadata(rank.rank, "process_name", {{"name", rank.label}}));
  add(Metadata(rank.rank, "process_sort_index", {{"sort_index", rank.rank}}));
  if (rank.dropped > 0) {
    add(Metadata(rank.rank, "process_labels",
                 {{"labels", std::to_string(rank.dropped) + " intervals had no room"}}));
  }
  for (size_t row = 0; row < rank.rows.size(); ++row) {
    for (auto [name, arguments] :
         {std::pair<const char*, Json>{"thread_name", {{"name", rank.rows[row]}}},
          {"thread_sort_index", {{"sort_index", row}}}}) {
      add(Metadata(rank.rank, name, std::move(arguments), row));
    }
  }
  for (const Trace::Interval& interval : rank.intervals) {
    add({{"name", interval.name},
         {"cat", NameOf(interval.work.kind)},
         {"ph", "X"},
         {"pid", ProcessOf(rank.rank)},
         {"tid", ThreadOf(rank.rank, static_cast<size_t>(interval.row))},
         {"ts", Microseconds(interval.begin_ns - rank.origin_ns)},
         {"dur", Microseconds(interval.end_ns - interval.begin_ns)},
         {"args", Arguments(interval)}});
  }
  add({{"name", "clock"},
       {"ph", "i"},
       {"s", "p"},
       {"pid", ProcessOf(rank.rank)},
       {"tid", ThreadOf(rank.rank, 0)},
       {"ts", 0},
       {"args", {{"uncertainty_us", Microseconds(rank.uncertainty_ns)}}}});
  return text;
}

absl::StatusOr<std::unique_ptr<StepTrace>> StepTrace::Start(parallel::World& world,
                                                            std::vector<Trace::Row> rows) {
  ASSIGN_OR_RETURN(const std::vector<RankClock> all, MeetClocks(KernelOf(world), world));
  const ClockOffset clock = OffsetToRank0(all, world.rank());
  const int64_t origin_ns = all[0].rounds.back().after_ns - clock.offset_ns;
  std::unique_ptr<StepTrace> trace(new StepTrace(world, clock, origin_ns));
  ASSIGN_OR_RETURN(trace->trace_, Trace::Start(std::move(rows), kMaxIntervals));
  return trace;
}

absl::Status StepTrace::WritePart(const std::string& path) {
  TracedRank traced{.rank = world_.rank(),
                    .label = "rank " + std::to_string(world_.rank()) + " of " +
                             std::to_string(world_.size()) + " on " + world_.host(),
                    .origin_ns = origin_ns_,
                    .uncertainty_ns = clock_.uncertainty_ns};
  for (const Trace::Row& row : trace_->rows()) traced.rows.push_back(row.name);
  ASSIGN_OR_RETURN(traced.intervals, trace_->Stop());
  traced.dropped = trace_->dropped();
  return WriteFileAtomically(PartName(path, world_.rank()), TraceEvents(traced));
}

// On rank 0, once all parts are there.
absl::Status StepTrace::Join(const std::string& path) const {
  ASSIGN_OR_RETURN(const std::unique_ptr<AtomicFile> file, AtomicFile::Create(path));
  const auto write = [&](const std::string& text) { return file->Write(text.data(), text.size()); };
  RETURN_IF_ERROR(write("{\"displayTimeUnit\": \"ns\", \"traceEvents\": [\n"));
  for (int rank = 0; rank < world_.size(); ++rank) {
    std::ifstream part(PartName(path, rank), std::ios::binary);
    std::ostringstream text;
    text << part.rdbuf();
    if (!part) return absl::UnavailableError("cannot read " + PartName(path, rank));
    std::string events = text.str();
    if (rank + 1 == world_.size()) events.resize(events.size() - 2);  // the last comma
    RETURN_IF_ERROR(write(events));
  }
  RETURN_IF_ERROR(write("\n]}\n"));
  return file->Commit();
}

void StepTrace::Write(const std::string& path) {
  const auto agree = [this](const absl::Status& mine) {
    const absl::StatusOr<absl::Status> agreed = Agree(mine, world_);
    return agreed.ok() ? *agreed : agreed.status();
  };
  absl::Status done = agree(WritePart(path));
  if (done.ok()) done = agree(world_.rank() == 0 ? Join(path) : absl::OkStatus());
  std::error_code ignored;
  std::filesystem::remove(PartName(path, world_.rank()), ignored);
  if (world_.rank() != 0) return;
  if (done.ok()) {
    kernels::Log(kernels::Severity::kInfo,
                 "traced a step of all ranks: open " + path + " in ui.perfetto.dev");
  } else {
    kernels::Log(kernels::Severity::kError,
                 "training goes on without the trace " + path + ": " + std::string(done.message()));
  }
}

}  // namespace muster::runtime
