#include "tests/support/runtime/simulated_story.h"

#include <algorithm>

#include "tests/support/runtime/ledger_bytes.h"

namespace muster::runtime {
namespace {

class RankLedgerWriter {
 public:
  RankLedgerWriter(const Story& story, int rank, const SimulatedHost& host,
                   const AttemptBegin& begin, int64_t realtime_ns)
      : story_(story),
        plan_(story.plan.ranks[static_cast<size_t>(rank)]),
        trace_(story.traces[static_cast<size_t>(rank)]),
        rank_(rank),
        clock_ns_(host.clock_ns),
        file_(begin, plan_.ledger_ns + clock_ns_, realtime_ns) {}

  std::string Write(int64_t restored, const std::vector<SimulatedExecution>& executions,
                    Dice& dice) {
    for (size_t s = 0; s < trace_.spans; ++s) {
      CatchUp(plan_.spans[s].begin_ns);
      if (dice.Chance(0.02)) {
        file_.JumpWallClock(dice.Between(-7'200'000'000'000, 7'200'000'000'000));
      }
      Begin(s, restored, executions);
    }
    CatchUp(INT64_MAX);
    if (trace_.ended) file_.End(plan_.end_ns + clock_ns_, story_.exit_code);
    return file_.bytes();
  }

 private:
  // Heartbeats and commits that are due until then, in the order of time.
  void CatchUp(int64_t at_ns) {
    const std::vector<SimulatedSave>& saves = story_.plan.saves;
    while (true) {
      const bool beats = beat_ < trace_.beats.size() && trace_.beats[beat_] <= at_ns;
      const bool commits = rank_ == 0 && commit_ < saves.size() &&
                           saves[commit_].committed_ns <= std::min(at_ns, story_.death);
      if (!beats && !commits) return;
      if (commits && (!beats || saves[commit_].committed_ns <= trace_.beats[beat_])) {
        Mark(CheckpointAct::kCommit, saves[commit_].committed_ns, saves[commit_].step);
        ++commit_;
      } else {
        file_.Heartbeat(trace_.beats[beat_++] + clock_ns_);
      }
    }
  }

  void Begin(size_t s, int64_t restored, const std::vector<SimulatedExecution>& executions) {
    const SimulatedSpan& span = plan_.spans[s];
    const int64_t at_ns = span.begin_ns + clock_ns_;
    if (span.state == State::kDataSeek) {
      file_.Checkpoint(at_ns, {CheckpointAct::kRestore, {restored, 0}, {}, 0});
    }
    if (s > 0 && plan_.spans[s - 1].state == State::kStep) {
      EndStep(at_ns, plan_.spans[s - 1], executions);
    } else if (span.state == State::kStep) {
      file_.StepBegin(at_ns, executions[static_cast<size_t>(span.execution)].step);
    } else {
      file_.Enter(at_ns, span.state);
    }
    if (rank_ == 0 && span.state == State::kCheckpointStall) {
      Mark(CheckpointAct::kSnapshot, span.begin_ns, story_.plan.saves[snapshot_++].step);
    }
  }

  void EndStep(int64_t at_ns, const SimulatedSpan& span,
               const std::vector<SimulatedExecution>& executions) {
    const SimulatedExecution& execution = executions[static_cast<size_t>(span.execution)];
    StepEnd end;
    end.step = execution.step;
    end.skipped = execution.skipped;
    end.model_flops = execution.flops;
    end.tokens = 100;
    end.first_sequence = 8 * execution.step;
    end.num_sequences = 8;
    end.time_ns = span.parts;
    file_.StepEnded(at_ns, end);
  }

  void Mark(CheckpointAct act, int64_t at_ns, int64_t step) {
    file_.Checkpoint(at_ns + clock_ns_, {act, {step, story_.number}, {}, 1});
  }

  const Story& story_;
  const RankPlan& plan_;
  const RankTrace& trace_;
  const int rank_;
  const int64_t clock_ns_;
  LedgerBytes file_;
  size_t beat_ = 0, commit_ = 0, snapshot_ = 0;
};

}  // namespace

std::string WriteRankLedger(const Story& story, int rank, const SimulatedHost& host,
                            int64_t restored, const std::vector<SimulatedExecution>& executions,
                            Dice& dice) {
  AttemptBegin begin;
  begin.attempt = story.number;
  begin.rank = rank;
  begin.world_size = static_cast<int>(story.plan.ranks.size());
  begin.peak_flops = kSimulatedPeakFlops;
  begin.host = host.name;
  begin.boot = host.boot;
  begin.clock = {-host.clock_ns, host.clock_ns == 0 ? 0 : dice.Between(0, 1'000'000)};
  begin.process_start_monotonic_ns =
      story.plan.ranks[static_cast<size_t>(rank)].process_start_ns + host.clock_ns;
  const int64_t realtime_ns =
      kSimulatedRealtimeNs + dice.Between(-1'000'000'000'000, 1'000'000'000'000);
  return RankLedgerWriter(story, rank, host, begin, realtime_ns).Write(restored, executions, dice);
}

}  // namespace muster::runtime
