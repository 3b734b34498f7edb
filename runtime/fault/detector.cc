#include "runtime/fault/detector.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "runtime/job/exit_code.h"

namespace muster::runtime {
namespace {

constexpr size_t kRanksQuoted = 4;
constexpr int64_t kMissedBeatsNs = 1'000'000'000;  // several, of a rank that beats 5 times a second
// A host is silent for so long that what others report may well come of its loss.
constexpr int64_t kSilentHostNs = 2'000'000'000;

int64_t Ns(double seconds) { return static_cast<int64_t>(seconds * 1e9); }

FailureKind KindOfExit(int status) {
  switch (status) {
    case kExitDone:
      return FailureKind::kNone;
    case kExitUsage:
      return FailureKind::kUsage;
    case kExitRequeue:
      return FailureKind::kPreempted;
    case kExitRollBack:
      return FailureKind::kNumerics;
    case kExitDoNotRequeue:
      return FailureKind::kHopeless;
    case kExitFailure:
    case kExitNotSaved:
      return FailureKind::kError;
    default:
      return FailureKind::kCrash;
  }
}

}  // namespace

Detector::Detector(const DetectorOptions& options, int world_size, int64_t start_ns)
    : options_(options),
      start_ns_(start_ns),
      ranks_(static_cast<size_t>(world_size)),
      straggler_(options.straggler, world_size) {}

void Detector::See(const RankEvent& event) {
  if (event.kind == RankEvent::Kind::kFrame) return SeeFrame(event);
  ranks_[static_cast<size_t>(event.rank)].lost_ns = event.at_ns;
  if (failure_) return;
  // All ranks agree to stop, and a starter ends the rest when the first has: its status tells more.
  if (std::any_of(ranks_.begin(), ranks_.end(), [](const Rank& rank) {
        return rank.left && rank.last.exit_code == kExitRequeue;
      })) {
    ranks_[static_cast<size_t>(event.rank)].left = true;
    return;
  }
  failure_ = SilentHosts(kSilentHostNs, event.at_ns);
  if (failure_) return;
  failure_ = Make(
      FailureKind::kCrash, {event.rank}, event.at_ns, event.at_ns,
      absl::StrCat("rank ", event.rank, " died without a word: ", Said(event.rank, event.at_ns)));
}

void Detector::SeeFrame(const RankEvent& event) {
  Rank& rank = ranks_[static_cast<size_t>(event.rank)];
  const Frame before = std::exchange(rank.last, event.frame);
  const bool news = !rank.spoke || before.state != rank.last.state ||
                    before.step != rank.last.step || before.steps_done != rank.last.steps_done;
  rank.spoke = true;
  rank.heard_ns = event.at_ns;
  if (news) rank.changed_ns = event.at_ns;
  if (rank.last.steps_done > before.steps_done) NoteStep(before, rank.last);
  if (rank.last.state == State::kStep) {
    const int64_t first = rank.last.step - rank.last.steps_done;
    first_step_ = first_step_ == 0 ? first : std::min(first_step_, first);
  }
  if (event.frame.type != Frame::Type::kGoodbye) return;
  rank.left = true;
  const int code = event.frame.exit_code;
  const FailureKind kind = KindOfExit(code);
  if (failure_ || kind == FailureKind::kNone || kind == FailureKind::kPreempted) return;
  // A rank whose collective fails may be the first to notice that a host is gone.
  if (kind == FailureKind::kError) failure_ = SilentHosts(kSilentHostNs, event.at_ns);
  if (failure_) return;
  failure_ = Make(kind == FailureKind::kCrash ? FailureKind::kError : kind, {event.rank},
                  event.at_ns, event.at_ns,
                  absl::StrCat("rank ", event.rank, " left with exit code ", code, ": ",
                               Said(event.rank, event.at_ns)));
  failure_->exit_code = code;
  // All ranks leave so together; the first need not be on the host that computed wrongly, or whose
  // disk is full.
  if (kind == FailureKind::kNumerics || code == kExitNotSaved) failure_->hosts.clear();
}

void Detector::NoteStep(const Frame& before, const Frame& frame) {
  // Steps between two frames have a mean; it is their number that the percentile needs. All ranks
  // make the same steps: the first to tell of one stands for all.
  const int64_t steps = frame.steps_done - before.steps_done;
  const int64_t each = std::max(frame.last_step_ns, (frame.step_ns - before.step_ns) / steps);
  const int64_t new_steps = frame.steps_done - steps_noted_;
  if (new_steps > 0) step_times_.Note(each, std::min<int64_t>(new_steps, 16));
  steps_noted_ = std::max(steps_noted_, frame.steps_done);
  // The step that is under way is not done; behind the last one `step` is the one that ended.
  const int64_t ended = frame.state == State::kStep ? frame.step - 1 : frame.step;
  best_step_ = std::max(best_step_, ended);
  straggler_.See(frame.rank, frame.steps_done, frame.work);
}

void Detector::SeeExit(int status, int64_t now_ns) {
  if (failure_) {
    if (failure_->exit_code == 0) failure_->exit_code = status;
    return;
  }
  FailureKind kind = KindOfExit(status);
  if (kind == FailureKind::kCrash || kind == FailureKind::kError) {
    failure_ = SilentHosts(kSilentHostNs, now_ns);
    if (failure_) {
      failure_->exit_code = status;
      return;
    }
  }
  const bool spoke =
      std::any_of(ranks_.begin(), ranks_.end(), [](const Rank& rank) { return rank.spoke; });
  const bool vague = kind == FailureKind::kCrash || kind == FailureKind::kError;
  if (vague && !spoke) kind = FailureKind::kLaunch;
  failure_ =
      Make(kind, {}, now_ns, now_ns,
           kind == FailureKind::kNone ? "" : absl::StrCat("the job ended with exit code ", status));
  failure_->exit_code = status;
}

const std::optional<Failure>& Detector::Check(int64_t now_ns) {
  if (failure_) return failure_;
  failure_ = Silence(now_ns);
  if (!failure_) failure_ = Standstill(now_ns);
  if (!failure_) failure_ = Ending(now_ns);
  return failure_;
}

bool Detector::all_spoke() const {
  return std::all_of(ranks_.begin(), ranks_.end(), [](const Rank& rank) { return rank.spoke; });
}

int64_t Detector::deadline_ns() const {
  return DeadlineOf(options_.deadlines, State::kStep, /*after_first_step=*/true, step_times_);
}

std::optional<Failure> Detector::Silence(int64_t now_ns) const {
  if (auto lost = SilentHosts(Ns(options_.deadlines.least_seconds), now_ns)) return lost;
  const std::vector<int> silent = SilentFor(deadline_ns(), now_ns);
  if (!silent.empty()) return SilentRanks(silent, now_ns);
  std::vector<int> missing;
  for (size_t r = 0; r < ranks_.size(); ++r) {
    if (!ranks_[r].spoke) missing.push_back(static_cast<int>(r));
  }
  if (missing.empty() || now_ns - start_ns_ <= Ns(options_.deadlines.start_seconds)) {
    return std::nullopt;
  }
  return NeverSpoke(missing, now_ns);
}

std::vector<int> Detector::SilentFor(int64_t longer_than_ns, int64_t now_ns) const {
  std::vector<int> silent;
  for (size_t r = 0; r < ranks_.size(); ++r) {
    const Rank& rank = ranks_[r];
    if (rank.spoke && !rank.left && now_ns - rank.heard_ns > longer_than_ns) {
      silent.push_back(static_cast<int>(r));
    }
  }
  return silent;
}

Failure Detector::SilentRanks(const std::vector<int>& silent, int64_t now_ns) const {
  int64_t heard = now_ns;
  for (const int r : silent) heard = std::min(heard, At(r).heard_ns);
  const std::string who = silent.size() == 1
                              ? absl::StrCat("rank ", silent[0], " is")
                              : absl::StrCat("ranks ", absl::StrJoin(silent, " "), " are");
  return Make(
      FailureKind::kHang, silent, heard, now_ns,
      absl::StrFormat("%s silent for %.1f s: %s", who, static_cast<double>(now_ns - heard) * 1e-9,
                      SaidByAll(silent, now_ns)));
}

// No rank has changed anything for too long. Those that are furthest behind are to blame.
std::optional<Failure> Detector::Standstill(int64_t now_ns) const {
  int64_t changed = 0, deadline = 0;
  int64_t least_done = INT64_MAX;
  for (const Rank& rank : ranks_) {
    if (!rank.spoke || rank.left) return std::nullopt;  // starting, or ending
    changed = std::max(changed, rank.changed_ns);
    least_done = std::min(least_done, rank.last.steps_done);
    deadline = std::max(deadline, DeadlineOf(options_.deadlines, rank.last.state,
                                             rank.last.steps_done > 0, step_times_));
  }
  if (now_ns - changed <= deadline) return std::nullopt;
  // Ranks that also miss beats were stopped within the step: the others wait for them.
  const std::vector<int> silent = SilentFor(kMissedBeatsNs, now_ns);
  if (!silent.empty() && silent.size() < ranks_.size()) {
    if (auto lost = SilentHosts(kMissedBeatsNs, now_ns)) return lost;
    return SilentRanks(silent, now_ns);
  }
  std::vector<int> behind;
  for (size_t r = 0; r < ranks_.size(); ++r) {
    if (ranks_[r].last.steps_done == least_done) behind.push_back(static_cast<int>(r));
  }
  const bool all = behind.size() == ranks_.size();
  return Make(
      FailureKind::kHang, all ? std::vector<int>{} : behind, changed, now_ns,
      absl::StrFormat("no progress for %.1f s: %s", static_cast<double>(now_ns - changed) * 1e-9,
                      SaidByAll(behind, now_ns)));
}

std::optional<Failure> Detector::Ending(int64_t now_ns) const {
  int64_t first_goodbye = now_ns;
  std::vector<int> staying;
  for (size_t r = 0; r < ranks_.size(); ++r) {
    if (!ranks_[r].left) staying.push_back(static_cast<int>(r));
    if (ranks_[r].left) first_goodbye = std::min(first_goodbye, ranks_[r].heard_ns);
  }
  if (now_ns - first_goodbye <= Ns(options_.end_deadline_seconds)) return std::nullopt;
  return Make(FailureKind::kHang, staying, first_goodbye, now_ns,
              staying.empty() ? std::string("all ranks have left, but their starter does not end")
                              : absl::StrCat("the others have left: ", SaidByAll(staying, now_ns)));
}

std::optional<Failure> Detector::NewStraggler(int64_t now_ns) {
  const std::optional<SlowRank> slow = straggler_.Next();
  if (!slow) return std::nullopt;
  const Rank& rank = ranks_[static_cast<size_t>(slow->rank)];
  return Make(FailureKind::kStraggler, {slow->rank}, rank.heard_ns, now_ns,
              absl::StrFormat("rank %d on %s works %.0f %% longer for a step than its peers, in "
                              "step %d",
                              slow->rank, HostOf(slow->rank), 100 * slow->excess, rank.last.step));
}

Failure Detector::Make(FailureKind kind, std::vector<int> ranks, int64_t happened_ns,
                       int64_t now_ns, std::string evidence) const {
  Failure failure;
  failure.kind = kind;
  failure.hosts = HostOf(ranks);
  failure.ranks = std::move(ranks);
  failure.happened_ns = happened_ns;
  failure.detected_ns = now_ns;
  failure.evidence = std::move(evidence);
  return failure;
}

std::string Detector::Said(int rank, int64_t now_ns) const {
  const Rank& r = ranks_[static_cast<size_t>(rank)];
  if (!r.spoke) return "it never spoke";
  const std::string where =
      r.last.state == State::kStep
          ? absl::StrCat("in step ", r.last.step)
          : absl::StrCat("in ", Name(r.last.state), ", ", r.last.steps_done, " steps done");
  return absl::StrFormat("%s%s%s, %.1f s before", where, r.last.doing.empty() ? "" : ", ",
                         r.last.doing, static_cast<double>(now_ns - r.heard_ns) * 1e-9);
}

std::string Detector::SaidByAll(const std::vector<int>& ranks, int64_t now_ns) const {
  std::vector<std::string> texts;
  for (size_t i = 0; i < std::min(ranks.size(), kRanksQuoted); ++i) {
    texts.push_back(absl::StrCat("rank ", ranks[i], " ", Said(ranks[i], now_ns)));
  }
  if (ranks.size() > kRanksQuoted) {
    texts.push_back(absl::StrCat("and ", ranks.size() - kRanksQuoted, " more"));
  }
  return absl::StrJoin(texts, "; ");
}

int64_t Detector::last_news_ns() const {
  int64_t news = start_ns_;
  for (const Rank& rank : ranks_) news = std::max(news, rank.changed_ns);
  return news;
}

}  // namespace muster::runtime
