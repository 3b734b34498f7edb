#pragma once
// Writes abstract run logs down as a story in seconds: one attempt after the other on one clock,
// all ranks alike. The peak is 1e12 FLOP/s and a second of a step's compute makes 1e12 model FLOPs,
// so that MFU of compute is 1.
#include <cstdint>
#include <utility>

#include "runtime/goodput/run_log.h"

namespace muster::runtime {

constexpr int64_t kSecondNs = 1'000'000'000;
constexpr double kTestPeakFlops = 1e12;

class LogBuilder {
 public:
  explicit LogBuilder(int world_size = 1) : world_size_(world_size) {}

  // Of the attempts that begin from now on.
  LogBuilder& OnDevices(int world_size) {
    world_size_ = world_size;
    return *this;
  }
  LogBuilder& BeginAttempt() {
    AttemptLog& attempt = log_.attempts.emplace_back();
    attempt.attempt = static_cast<int>(log_.attempts.size()) - 1;
    attempt.world_size = world_size_;
    attempt.begin_ns = now_;
    rank_ = RankLog{};
    rank_.peak_flops = kTestPeakFlops;
    rank_.peak_label = "test peak";
    rank_.process_start_ns = now_;
    return *this;
  }
  LogBuilder& In(State state, int64_t seconds) {
    rank_.phases.push_back({now_, state, -1});
    now_ += seconds * kSecondNs;
    return *this;
  }
  // Steps [first, end), each of compute_s of compute and data_s of waiting for data.
  LogBuilder& Steps(int64_t first, int64_t end, int64_t compute_s = 10, int64_t data_s = 0) {
    for (int64_t step = first; step < end; ++step) {
      Unfinished(step, compute_s + data_s);
      StepExecution& execution = rank_.steps.back();
      execution.finished = true;
      execution.time_ns[parallel::kCompute] = compute_s * kSecondNs;
      execution.time_ns[parallel::kData] = data_s * kSecondNs;
      execution.model_flops = static_cast<double>(compute_s) * kTestPeakFlops;
      execution.tokens = 1000;
    }
    return *this;
  }
  LogBuilder& SkippedStep(int64_t step) {
    Steps(step, step + 1);
    rank_.steps.back().skipped = true;
    return *this;
  }
  LogBuilder& Unfinished(int64_t step, int64_t seconds) {
    rank_.phases.push_back({now_, State::kStep, static_cast<int>(rank_.steps.size())});
    rank_.steps.emplace_back().step = step;
    now_ += seconds * kSecondNs;
    return *this;
  }
  LogBuilder& Ends(int exit_code) {
    rank_.exit_code = exit_code;
    return Close(now_);
  }
  // Without an end record; the supervisor sees the attempt's end `detect_s` later.
  LogBuilder& Dies(int64_t detect_s) {
    const int64_t death = now_;
    now_ += detect_s * kSecondNs;
    log_.attempts.back().supervisor_end_ns = now_;
    return Close(death);
  }
  // Without an end record, and nobody watched.
  LogBuilder& DiesUnwatched() { return Close(now_); }
  RunLog Build() { return std::move(log_); }

 private:
  LogBuilder& Close(int64_t last_record_ns) {
    AttemptLog& attempt = log_.attempts.back();
    attempt.end_ns = now_;
    rank_.end_ns = last_record_ns;
    for (rank_.rank = 0; rank_.rank < world_size_; ++rank_.rank) attempt.ranks.push_back(rank_);
    return *this;
  }

  int world_size_;
  int64_t now_ = 1'000 * kSecondNs;
  RunLog log_;
  RankLog rank_;
};

// The eight logs of the goodput page: 100 steps of 10 s each.
RunLog LogOf(char name, int world_size = 1);

}  // namespace muster::runtime
