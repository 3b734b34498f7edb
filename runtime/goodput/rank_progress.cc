#include "runtime/goodput/rank_progress.h"

#include <algorithm>
#include <numeric>
#include <utility>

namespace muster::runtime {

template <typename Change>
void RankProgress::Apply(Change change) {
  ProgressFacts now;
  {
    const std::lock_guard lock(mutex_);
    change();
    now = facts_;
  }
  if (follower_) follower_(now);
}

void RankProgress::Follow(std::function<void(const ProgressFacts&)> follower) {
  follower_ = std::move(follower);
}

void RankProgress::Entered(State state) {
  Apply([&] { facts_.state = state; });
}

void RankProgress::StepBegan(int64_t step) {
  Apply([&] {
    facts_.state = State::kStep;
    facts_.step = step;
  });
}

void RankProgress::RoundBegan() {
  Apply([&] { facts_.in_round = true; });
}

void RankProgress::RoundEnded(int64_t ns) {
  Apply([&] {
    facts_.in_round = false;
    facts_.rounds_done += 1;
    facts_.last_round_ns = ns;
  });
}

void RankProgress::NoteUneven(int64_t ns, int64_t rows) {
  const std::lock_guard lock(mutex_);
  uneven_ns_ = ns;
  uneven_rows_ = rows;
}

void RankProgress::StepEnded(const StepEnd& end) {
  using namespace parallel;
  const auto& t = end.time_ns;
  const int64_t whole = std::accumulate(t.begin(), t.end(), int64_t{0});
  Apply([&] {
    facts_.state = State::kUnknown;
    facts_.steps_done += 1;
    facts_.last_step_ns = whole;
    facts_.step_ns += whole;
    const int64_t uneven_ns = std::min(t[kCompute], std::exchange(uneven_ns_, 0));
    facts_.work[static_cast<size_t>(facts_.steps_done) % kStepsRemembered] = {
        .even_ns = t[kCompute] - uneven_ns + t[kData],
        .uneven_ns = uneven_ns,
        .uneven_rows = std::exchange(uneven_rows_, 0)};
  });
}

ProgressFacts RankProgress::facts() const {
  const std::lock_guard lock(mutex_);
  return facts_;
}

void RankProgress::Attach(LedgerWriter* ledger) {
  const std::lock_guard lock(ledger_mutex_);
  ledger_ = ledger;
}

void RankProgress::Beat() {
  const std::lock_guard lock(ledger_mutex_);
  if (ledger_ != nullptr) ledger_->Heartbeat();
}

}  // namespace muster::runtime
