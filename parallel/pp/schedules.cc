#include "parallel/pp/schedules.h"

#include <algorithm>

#include "kernels/base/error.h"

namespace muster::parallel {
namespace {

using Kind = Action::Kind;

// Writes one rank's list: microbatches of each stage are taken in order, and weight gradients that
// were put off are done in the order of their input gradients.
class ListWriter {
 public:
  explicit ListWriter(std::vector<int> stages) : stages_(std::move(stages)) {
    next_.resize(stages_.size());
  }
  // The next microbatch of this rank's stage `chunk`.
  void Forward(int chunk) { Add(Kind::kForward, chunk, Next(chunk).forward++); }
  void Backward(int chunk) { Add(Kind::kBackward, chunk, Next(chunk).backward++); }
  void Input(int chunk) {
    put_off_.push_back(
        {Kind::kBackwardWeight, stages_[static_cast<size_t>(chunk)], Next(chunk).backward});
    Add(Kind::kBackwardInput, chunk, Next(chunk).backward++);
  }
  // The oldest weight gradient that was put off; of stage `chunk` if that is given.
  void Weight(int chunk = -1) {
    const auto oldest = std::find_if(put_off_.begin(), put_off_.end(), [&](const Action& action) {
      return chunk < 0 || action.stage == stages_[static_cast<size_t>(chunk)];
    });
    MUSTER_CHECK(oldest != put_off_.end()) << "no weight gradient was put off";
    actions_.push_back(*oldest);
    put_off_.erase(oldest);
  }
  void InputThenWeight(int chunk) {
    Input(chunk);
    Weight(chunk);
  }
  int forwards(int chunk) { return Next(chunk).forward; }
  int backwards(int chunk) { return Next(chunk).backward; }
  std::vector<Action> Take() {
    while (!put_off_.empty()) Weight();
    return std::move(actions_);
  }

 private:
  struct Counts {
    int forward = 0, backward = 0;
  };
  Counts& Next(int chunk) { return next_[static_cast<size_t>(chunk)]; }
  void Add(Kind kind, int chunk, int microbatch) {
    actions_.push_back({kind, stages_[static_cast<size_t>(chunk)], microbatch});
  }
  const std::vector<int> stages_;
  std::vector<Counts> next_;
  std::vector<Action> actions_, put_off_;
};

void Repeat(int times, const auto& act) {
  for (int i = 0; i < times; ++i) act();
}

}  // namespace

Schedule Interleaved(const PipelineShape& shape) {
  const int p = shape.ranks, v = shape.stages_per_rank, m = shape.microbatches;
  MUSTER_CHECK(v >= 1 && m % p == 0) << m << " microbatches on " << p << " ranks";
  const int total = m * v;
  // The i-th pass: p microbatches through the first stage of a rank, the same p through the next.
  const auto pass = [&](Kind kind, int rank, int i) -> Action {
    const int chunk = i % (p * v) / p, microbatch = i / (p * v) * p + i % p;
    return {kind, (kind == Kind::kForward ? chunk : v - 1 - chunk) * p + rank, microbatch};
  };
  Schedule schedule(static_cast<size_t>(p));
  for (int rank = 0; rank < p; ++rank) {
    std::vector<Action>& actions = schedule[static_cast<size_t>(rank)];
    const int warm_up = std::min((p - rank - 1) * 2 + (v - 1) * p, total);
    for (int i = 0; i < total + warm_up; ++i) {
      if (i < total) actions.push_back(pass(Kind::kForward, rank, i));
      if (i >= warm_up) actions.push_back(pass(Kind::kBackward, rank, i - warm_up));
    }
  }
  return schedule;
}

Schedule ZeroBubbleH1(const PipelineShape& shape) {
  const int p = shape.ranks, m = shape.microbatches;
  Schedule schedule;
  for (int rank = 0; rank < p; ++rank) {
    ListWriter list({rank});
    const int warm_up = std::min(p - rank - 1, m);
    for (int i = 0; i < m + warm_up; ++i) {
      if (i < m) list.Forward(0);
      if (i >= warm_up) list.Input(0);
      if (i >= warm_up + rank) list.Weight();
    }
    schedule.push_back(list.Take());
  }
  return schedule;
}

Schedule ZeroBubbleV(const PipelineShape& shape) {
  const int p = shape.ranks, m = shape.microbatches;
  MUSTER_CHECK(m >= 2 * p) << m << " microbatches on " << p << " ranks";
  Schedule schedule;
  for (int rank = 0; rank < p; ++rank) {
    ListWriter list({rank, 2 * p - 1 - rank});  // on the way down, on the way back
    const int below = p - rank;                 // this rank and those further down
    Repeat(2 * below - 1, [&] { list.Forward(0); });
    Repeat(rank, [&] {
      list.Forward(1);
      list.Forward(0);
    });
    Repeat(below, [&] {
      list.Forward(1);
      list.InputThenWeight(1);
    });
    while (list.forwards(1) < m) {
      if (list.forwards(0) < m) list.Forward(0);
      list.InputThenWeight(0);
      list.Forward(1);
      list.InputThenWeight(1);
    }
    Repeat(rank, [&] {
      list.Input(0);
      list.Input(1);
    });
    Repeat(below, [&] {
      list.Input(0);
      list.Weight(0);
    });
    schedule.push_back(list.Take());
  }
  return schedule;
}

Schedule DualPipeV(const PipelineShape& shape) {
  const int p = shape.ranks, m = shape.microbatches;
  MUSTER_CHECK(m >= 2 * p) << m << " microbatches on " << p << " ranks";
  Schedule schedule;
  for (int rank = 0; rank < p; ++rank) {
    ListWriter list({rank, 2 * p - 1 - rank});
    const int after = p - rank - 1;  // ranks further down
    Repeat(2 * after, [&] { list.Forward(0); });
    Repeat(rank + 1, [&] {
      list.Forward(0);
      list.Forward(1);
    });
    Repeat(after, [&] {
      list.InputThenWeight(1);
      list.Forward(1);
    });
    Repeat(m - 2 * p + rank + 1, [&] {
      list.Forward(0);
      list.Backward(1);
      list.Forward(1);
      list.Backward(0);
    });
    Repeat(after, [&] {
      list.Backward(1);
      list.Forward(1);
      list.Backward(0);
    });
    // The second half of what is left puts its weight gradients off, to fill the end.
    int left = 2 * (rank + 1);
    Repeat(rank + 1, [&] {
      for (const int chunk : {1, 0}) {
        if (left-- > rank + 1) {
          list.Backward(chunk);
        } else {
          list.Input(chunk);
        }
      }
    });
    Repeat(after, [&] {
      list.Weight();
      list.Input(0);
    });
    schedule.push_back(list.Take());
  }
  return schedule;
}

}  // namespace muster::parallel
