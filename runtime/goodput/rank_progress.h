#pragma once
// How far a rank is: written by whoever keeps its ledger, read by the thread that beats.
#include <array>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <mutex>

#include "runtime/goodput/ledger.h"

namespace muster::runtime {

// What a rank worked itself in a step, by its own clock: forward, backward and the wait for its
// batch. Not in it: waits for other ranks; what is short and lies between collectives, so that
// waits leak into it (the update, the end of the step, where ranks gather each other's times on
// their hosts).
struct StepWork {
  int64_t even_ns = 0;      // what all ranks of a stage have to do alike
  int64_t uneven_ns = 0;    // what a router gave to this one: its experts' rows
  int64_t uneven_rows = 0;  // so many
  friend bool operator==(const StepWork&, const StepWork&) = default;
};
constexpr size_t kStepsRemembered = 16;

struct ProgressFacts {
  State state = State::kLaunch;
  int64_t step = 0, steps_done = 0;  // begun last; ended
  // Of evaluations, each of which is some rounds that all ranks begin and end together.
  bool in_round = false;
  int64_t rounds_done = 0, last_round_ns = 0;
  int64_t step_ns = 0, last_step_ns = 0;  // of all steps that ended, and of the last
  // Of the last steps that ended: the n-th of the attempt (from 1) at n % kStepsRemembered.
  std::array<StepWork, kStepsRemembered> work{};
};

// Thread-safe.
class RankProgress {
 public:
  void Entered(State state);
  void StepBegan(int64_t step);
  // Of the step under way: compute that a router gave to this rank and not evenly to all, and the
  // rows of it.
  void NoteUneven(int64_t ns, int64_t rows);
  void StepEnded(const StepEnd& end);  // time_ns tiles the step
  void RoundBegan();
  void RoundEnded(int64_t ns);  // which it took
  ProgressFacts facts() const;
  // Called after each change, by whoever makes it; nullptr: nobody. Not itself thread-safe: set it
  // while nothing changes.
  void Follow(std::function<void(const ProgressFacts&)> follower);

  // The ledger that Beat() keeps alive; nullptr before it ends.
  void Attach(LedgerWriter* ledger);
  void Beat();

 private:
  template <typename Change>
  void Apply(Change change);

  mutable std::mutex mutex_;
  ProgressFacts facts_;
  int64_t uneven_ns_ = 0, uneven_rows_ = 0;
  std::function<void(const ProgressFacts&)> follower_;
  std::mutex
      ledger_mutex_;  // apart: a ledger holds its own lock while it calls the functions above
  LedgerWriter* ledger_ = nullptr;
};

}  // namespace muster::runtime
