// How a supervisor ends an attempt that has failed: it gathers why, while the ranks are there, and
// then sees to it that none of them is left.
#include <signal.h>

#include <algorithm>
#include <filesystem>
#include <system_error>

#include "absl/strings/str_cat.h"
#include "kernels/device/span.h"
#include "launch/hang_evidence.h"
#include "launch/process_space.h"
#include "launch/supervisor.h"
#include "parallel/comm/collective_record.h"
#include "runtime/job/atomic_file.h"

namespace muster::launch {

using kernels::MonotonicNs;
using runtime::Failure;
using runtime::FailureKind;

namespace {

constexpr int64_t kHostClosesNs = 200'000'000;
constexpr int64_t kAnswerNs = 1'000'000'000;  // of a rank that is asked for its calls
// mpirun has so long to clean up after itself. With a host that does not answer it would wait for
// ever.
constexpr int64_t kStarterEndsNs = 5'000'000'000, kStarterOfALostHostEndsNs = 1'000'000'000;
constexpr int64_t kRanksEndNs = 3'000'000'000;  // after that

}  // namespace

// A host that goes down closes its connections within moments. mpirun ends the other ranks of a
// crash after a second.
void Supervisor::AwaitItsHost(Failure* crash) {
  if (options_.hosts.in_use().size() < 2) return;
  for (const int64_t end = MonotonicNs() + kHostClosesNs; MonotonicNs() < end; Wait(10)) {
    for (const runtime::RankEvent& event : Hear()) detector_->See(event);
  }
  detector_->JudgeHostOfCrash(MonotonicNs());
  *crash = *detector_->Check(MonotonicNs());
  if (crash->kind == FailureKind::kCrash) return;
  ledger_->Detect(attempt_, *crash);
  Say(absl::StrCat(Name(crash->kind), ": ", crash->evidence));
}

// The evidence of a hang, while its ranks are there. A rank whose collective overran its deadline
// has gathered it already, and left.
void Supervisor::Explain(Failure* failure) {
  const std::string directory = parallel::HangDirectory(options_.run_directory, attempt_);
  const auto wrote_log = [&](int rank) {
    std::error_code error;
    return std::filesystem::exists(parallel::RecordPath(directory, rank), error);
  };
  const std::vector<int>& ranks = failure->ranks;
  const bool left = failure->kind == FailureKind::kError || failure->kind == FailureKind::kCrash;
  const bool found_itself =
      left && !ranks.empty() && std::all_of(ranks.begin(), ranks.end(), wrote_log);
  if (failure->kind != FailureKind::kHang && !found_itself) return;
  if (!found_itself) server_->AskForEvidence();
  const std::vector<runtime::Frame> connected = server_->Connected();
  for (const int64_t end = MonotonicNs() + kAnswerNs;
       !MissingLogs(directory, connected, process_space_).empty() && MonotonicNs() < end;) {
    Hear();
    Wait(10);
  }
  const absl::StatusOr<HangEvidence> evidence = ExplainHangOf(directory, connected, process_space_);
  if (!evidence.ok()) {
    Say(absl::StrCat("no evidence of the hang: ", std::string(evidence.status().message())));
    return;
  }
  std::string text = evidence->text + SaveStacksOf(*evidence, directory, connected, process_space_);
  if (const absl::Status kept = runtime::WriteFileAtomically(directory + "/report.txt", text);
      !kept.ok()) {
    absl::StrAppend(&text, "  ", std::string(kept.message()), "\n");
  }
  Say(text);
  explanation_ = evidence->summary;
  if (left) failure->happened_ns = std::min(failure->happened_ns, detector_->last_news_ns());
  failure->kind = FailureKind::kHang;
  failure->evidence = absl::StrCat(explanation_, "; ", failure->evidence);
  if (!evidence->ranks.empty()) {
    failure->ranks = evidence->ranks;
    failure->hosts = detector_->HostOf(failure->ranks);
  }
  ledger_->Detect(attempt_, *failure);
}

// Ends what is left and waits until all is gone. Nothing of value is lost: a save in flight that
// others died in cannot be committed any more.
void Supervisor::Teardown(const Failure& failure) {
  const bool lost = failure.kind == FailureKind::kHostLost;
  for (const runtime::Frame& last : server_->Connected()) {
    const bool is_lost = lost && std::count(failure.ranks.begin(), failure.ranks.end(), last.rank);
    // Nobody is there to close it; what is here after all gets killed.
    if (is_lost && !IsSameSpace(last.process_space, process_space_)) server_->Drop(last.rank);
  }
  const auto anyone = [this] {
    Hear();
    Reap();
    if (starter_ > 0) return true;
    for (int rank = 0; rank < history_.world_size; ++rank) {
      if (server_->Connected(rank)) return true;
    }
    return false;
  };
  if (!anyone()) return;
  ledger_->Teardown(attempt_);
  if (starter_ > 0) kill(-starter_, SIGTERM);
  const int64_t begin = MonotonicNs(),
                starter_ends = lost ? kStarterOfALostHostEndsNs : kStarterEndsNs;
  bool killed = false;
  while (anyone()) {
    const int64_t passed = MonotonicNs() - begin;
    if (!killed && passed > static_cast<int64_t>(options_.kill_grace_seconds * 1e9)) {
      killed = true;
      server_->Dismiss();
      KillRanks();
    }
    if (passed > starter_ends && starter_ > 0) kill(-starter_, SIGKILL);
    if (passed > starter_ends + kRanksEndNs) {
      Say("some ranks that were told to end are still connected; going on without them: they "
          "cannot commit any more");
      return;
    }
    Wait(10);
  }
}

// Ranks lead process groups of their own and may be stopped. A process whose connection is open is
// alive, so its number is its own.
void Supervisor::KillRanks() {
  for (const runtime::Frame& last : server_->Connected()) {
    if (IsSameSpace(last.process_space, process_space_)) kill(last.pid, SIGKILL);
  }
}

// What is known once the starter has ended.
void Supervisor::Complete(Failure* failure) const {
  if (failure->kind != FailureKind::kCrash || failure->exit_code != 0) return;
  failure->exit_code = starter_status_;
  if (starter_status_ > 128) {
    absl::StrAppend(&failure->evidence, "; ended by signal ", starter_status_ - 128);
  }
}

}  // namespace muster::launch
