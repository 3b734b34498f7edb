#include <bit>
#include <nlohmann/json.hpp>

#include "absl/strings/str_cat.h"
#include "kernels/base/hash.h"
#include "runtime/goodput/attempt_end.h"
#include "runtime/goodput/charge.h"
#include "runtime/goodput/ledger_record.h"
#include "runtime/goodput/report.h"

namespace muster::runtime {
namespace {

using Json = nlohmann::ordered_json;

// A double would round device-seconds beyond 104 days x devices, and a 64-bit integer would end at
// 292 device-years. Such numbers are put in as strings with this mark in front, and lose mark and
// quotes in the text. No other string holds the mark: Plain() takes control characters out.
constexpr char kRawMark = '\x01';
constexpr char kRawMarkInText[] = "\"\\u0001";

std::string Plain(std::string text) {
  for (char& c : text) {
    if (static_cast<unsigned char>(c) < ' ') c = '?';
  }
  return text;
}

std::string RawSeconds(DeviceNs ns) { return kRawMark + DecimalSeconds(ns); }

std::string RawInteger(DeviceNs value) {
  std::string digits;
  const bool negative = value < 0;
  for (DeviceNs rest = negative ? -value : value; rest > 0 || digits.empty(); rest /= 10) {
    digits.insert(digits.begin(), static_cast<char>('0' + static_cast<int>(rest % 10)));
  }
  return absl::StrCat(std::string(1, kRawMark), negative ? "-" : "", digits);
}

std::string Unmark(const std::string& text) {
  std::string result;
  size_t at = 0;
  for (size_t mark; (mark = text.find(kRawMarkInText, at)) != std::string::npos;) {
    const size_t number = mark + sizeof(kRawMarkInText) - 1;
    const size_t quote = text.find('"', number);
    result.append(text, at, mark - at).append(text, number, quote - number);
    at = quote + 1;
  }
  return result.append(text, at);
}

template <typename T>
Json OrNull(const std::optional<T>& value) {
  return value ? Json(*value) : Json(nullptr);
}

Json SecondsOrNull(const std::optional<int64_t>& ns) {
  return ns ? Json(RawSeconds(*ns)) : Json(nullptr);
}

Json SecondsByName(const std::vector<NamedDeviceNs>& named) {
  Json object = Json::object();
  for (const auto& [name, ns] : named) object[name] = RawSeconds(ns);
  return object;
}

Json FailureJson(const Failure& failure) {
  return {{"kind", Name(failure.kind)},
          {"ranks", failure.ranks},
          {"evidence", Plain(failure.evidence)},
          {"seconds_to_detect", RawSeconds(failure.detected_ns - failure.happened_ns)}};
}

// Of a rank, or, without one, of whoever started them; seconds since the attempt's begin.
Json ExitJson(const RankExit& exit, int64_t begin_ns) {
  return {{"rank", exit.rank == kStarterRank ? Json(nullptr) : Json(exit.rank)},
          {"status", exit.status == kExitNotKnown ? Json(nullptr) : Json(exit.status)},
          {"seconds", RawSeconds(exit.seen_ns - begin_ns)}};
}

// Unix seconds that the scheduler does not tell are null.
Json SchedulerJson(const AttributedAttempt& attempt) {
  const SchedulerJob& job = attempt.scheduler;
  const auto told = [](int64_t seconds) { return seconds > 0 ? Json(seconds) : Json(nullptr); };
  return {{"job", job.id},
          {"restarts", job.restarts},
          {"submitted_unix_seconds", told(job.submitted_s)},
          {"started_unix_seconds", told(job.started_s)},
          {"queued_seconds", RawSeconds(attempt.queued_ns)},
          {"alloc_wait_seconds", RawSeconds(attempt.alloc_wait_ns)}};
}

Json AttemptJson(const AttributedAttempt& attempt) {
  Json time = Json::object();
  for (int s = 0; s < kNumStates; ++s) {
    const State state = static_cast<State>(s);
    if (state != State::kStep) time[Name(state)] = RawSeconds(attempt.time.At(state));
  }
  time["productive"] = RawSeconds(attempt.time.At(StepFate::kProductive));
  time["rework"] = RawSeconds(attempt.time.At(StepFate::kRework));
  time["skipped"] = RawSeconds(attempt.time.At(StepFate::kSkipped));
  time["lost_partial"] = RawSeconds(attempt.time.lost_partial);
  Json stragglers = Json::array();
  for (const Failure& slow : attempt.stragglers) stragglers.push_back(FailureJson(slow));
  Json hosts = Json::array();
  for (const AttemptHost& host : attempt.hosts) {
    hosts.push_back({{"host", host.name}, {"devices", host.devices}, {"ranks", host.ranks}});
  }
  Json exits = Json::array();
  for (const RankExit& exit : attempt.exits) exits.push_back(ExitJson(exit, attempt.begin_ns));
  const bool coded = attempt.exit_code && *attempt.exit_code != kNoExitCode;
  return {
      {"attempt", attempt.attempt},
      {"devices", attempt.world_size},
      {"spare_devices", attempt.spare_devices},
      {"hosts", hosts},
      {"scheduler", attempt.scheduler.id.empty() ? Json(nullptr) : SchedulerJson(attempt)},
      {"began_unix_seconds", RawSeconds(attempt.begin_realtime_ns)},
      {"seconds", RawSeconds(attempt.end_ns - attempt.begin_ns)},
      {"gap_before_seconds", RawSeconds(attempt.gap_before_ns)},
      {"gap_before_by_wall_clock", attempt.gap_by_wall_clock},
      {"clock_bound_seconds", SecondsOrNull(attempt.clock_bound_ns)},
      {"allocated_device_seconds", RawSeconds(attempt.allocated())},
      {"first_step", OrNull(attempt.first_step)},
      {"last_step", OrNull(attempt.last_step)},
      {"completed_steps", attempt.completed_steps},
      {"rework_steps", attempt.rework_steps},
      {"skipped_steps", attempt.skipped_steps},
      {"open", attempt.open},
      {"failed", Failed(attempt)},
      {"ended", HowItEnded(attempt)},
      {"exit_code", coded ? Json(*attempt.exit_code) : Json(nullptr)},
      {"dead_ranks", attempt.dead_ranks},
      {"failure", attempt.failure ? FailureJson(*attempt.failure) : Json(nullptr)},
      {"stragglers", stragglers},
      {"exits", exits},
      {"spares_in", attempt.spares_in},
      {"ranks_without_ledger", attempt.world_size - attempt.ranks_with_log},
      {"device_seconds", time},
  };
}

const char* FateName(StepFate fate) {
  switch (fate) {
    case StepFate::kProductive:
      return "productive";
    case StepFate::kRework:
      return "rework";
    case StepFate::kSkipped:
      return "skipped";
    case StepFate::kLostPartial:
      return "lost_partial";
  }
  return "unknown";
}

Json ChargesJson(const StepCharge& charge) {
  return {{"execution", RawSeconds(charge.execution)},
          {"rework", RawSeconds(charge.rework)},
          {"failure", RawSeconds(charge.failure)},
          {"start_up", RawSeconds(charge.start_up)}};
}

// The steps' mean goodput, and what is charged to them: with what is not, all that was allocated.
Json StepsGoodputJson(const RunReport& report) {
  const StepsGoodput& steps = report.steps;
  Json uncharged = Json::object();
  for (const auto& [name, ns] : report.uncharged) uncharged[name] = RawInteger(ns);
  return {{"goodput", OrNull(steps.mean)},
          {"factors",
           {{"availability", steps.availability},
            {"non_stall", steps.non_stall},
            {"non_rework", steps.non_rework},
            {"mfu", OrNull(steps.mfu)}}},
          {"start_up_amortised", report.options.amortise_start_up},
          {"charged_device_ns", RawInteger(steps.charged)},
          {"uncharged_device_ns", uncharged}};
}

Json StepJson(const AttributedStep& step) {
  Json breakdown = Json::object();
  for (int c = 0; c < parallel::kNumTimeCategories; ++c) {
    breakdown[Name(static_cast<parallel::TimeCategory>(c))] = RawSeconds(step.time_ns[c]);
  }
  return {{"step", step.step},
          {"attempt", step.attempt},
          {"fate", FateName(step.fate)},
          {"skip_reason", step.skip_reason.empty() ? Json(nullptr) : Json(step.skip_reason)},
          {"ranks", step.ranks},
          {"loss", std::bit_cast<double>(step.loss_bits)},
          {"loss_bits", kernels::HexDigits(step.loss_bits)},
          {"grad_norm_bits", kernels::HexDigits(step.grad_norm_bits)},
          {"tokens", step.tokens},
          {"first_sequence", step.num_sequences > 0 ? Json(step.first_sequence) : Json(nullptr)},
          {"sequences", step.num_sequences > 0 ? Json(step.num_sequences) : Json(nullptr)},
          {"model_flops", step.model_flops},
          {"hardware_flops", step.hardware_flops > 0 ? Json(step.hardware_flops) : Json(nullptr)},
          {"device_seconds", RawSeconds(step.device_ns)},
          {"lost_device_seconds", RawSeconds(step.lost_device_ns)},
          {"at_risk", step.at_risk},
          {"goodput", OrNull(StepGoodput(step))},
          {"charge_device_ns", RawInteger(step.charge.Total())},
          {"charges", ChargesJson(step.charge)},
          {"breakdown", breakdown}};
}

// What the run would keep on more GPUs; null if its own times are not known.
Json ProjectionsJson(const RunReport& report) {
  const absl::StatusOr<FailureModel> model = FailureModelOf(report);
  if (!model.ok()) return nullptr;
  Json rows = Json::array();
  for (const auto& [gpus, rate, mttf_seconds, best] : Projections(*model)) {
    rows.push_back({{"gpus", gpus},
                    {"cluster", rate.cluster},
                    {"failures_per_node_day", rate.per_node_day},
                    {"mttf_seconds", mttf_seconds},
                    {"interval_seconds", best.tau_seconds},
                    {"kept", best.goodput}});
  }
  return rows;
}

}  // namespace

std::string RenderJson(const RunReport& report) {
  const Attribution& run = report.attribution;
  Json object = {
      {"run", Plain(report.run)},
      {"goodput", OrNull(report.goodput)},
      {"factors",
       {{"availability", report.availability},
        {"non_stall", report.non_stall},
        {"non_rework", report.non_rework},
        {"mfu", OrNull(report.mfu)}}},
      {"allocated_device_seconds", RawSeconds(run.allocated)},
      {"device_seconds", SecondsByName(report.by_category)},
      {"allocated_device_ns", RawInteger(run.allocated)},
  };
  for (const auto& [name, ns] : report.by_category) object["device_ns"][name] = RawInteger(ns);
  object["lost_by_cause"] = SecondsByName(report.lost_by_cause);
  object["lost_by_failure"] = SecondsByName(report.lost_by_failure);
  object["charges"] = StepsGoodputJson(report);
  object["at_risk"] = {{"steps", report.steps_at_risk},
                       {"device_seconds", RawSeconds(report.at_risk)}};
  object["compute_below_peak_device_seconds"] = OrNull(report.compute_below_peak_seconds);
  object["peak"] = {{"labels", run.peak_labels}, {"mean_device_flops", report.mean_peak_flops}};
  object["model_flops"] = run.productive_flops;
  object["hardware_flops"] = OrNull(run.productive_hardware_flops);
  object["hfu"] = OrNull(report.hfu);
  object["possible_flops"] = OrNull(run.possible_flops);
  object["ettr"] = report.ettr;
  object["queue_device_seconds"] = RawSeconds(report.queue);
  object["steps_kept"] = run.productive_steps;
  object["tokens"] = run.productive_tokens;
  object["tokens_per_second"] = report.tokens_per_second;
  object["tokens_per_device_hour"] = report.tokens_per_device_hour;
  object["failures"] = report.failures;
  object["mean_time_to_failure_seconds"] = OrNull(report.mean_time_to_failure_seconds);
  object["mean_time_to_detect_seconds"] = OrNull(report.mean_time_to_detect_seconds);
  object["mean_time_to_restart_seconds"] = OrNull(report.mean_time_to_restart_seconds);
  object["clock_bound_seconds"] = SecondsOrNull(report.clock_bound_ns);
  object["checkpoints"] = {{"commits", report.commits},
                           {"put_off", report.saves_put_off},
                           {"mean_seconds_to_commit", OrNull(report.mean_seconds_to_commit)},
                           {"mean_stall_seconds", OrNull(report.mean_stall_seconds_of_checkpoint)}};
  const absl::StatusOr<OwnProjection> own = ProjectionOfRun(report);
  object["projection"] = own.ok() ? Json{{"mttf_seconds", own->model.mttf_seconds},
                                         {"restart_seconds", own->model.restart_seconds},
                                         {"interval_seconds", own->interval_seconds},
                                         {"projected", own->projected},
                                         {"kept", own->kept}}
                                  : Json(nullptr);
  if (report.options.project) object["projections"] = ProjectionsJson(report);
  object["attempts"] = Json::array();
  for (const AttributedAttempt& attempt : run.attempts) {
    object["attempts"].push_back(AttemptJson(attempt));
  }
  object["steps"] = Json::array();
  for (const AttributedStep& step : run.steps) object["steps"].push_back(StepJson(step));
  object["errors"] = Json::array();
  for (const std::string& error : report.errors) object["errors"].push_back(Plain(error));
  object["notes"] = Json::array();
  for (const std::string& note : report.notes) object["notes"].push_back(Plain(note));
  return Unmark(object.dump(2, ' ', false, Json::error_handler_t::replace)) + "\n";
}

}  // namespace muster::runtime
