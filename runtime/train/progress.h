#pragma once
// What a person sees while a job trains: a line a step, and on a terminal a bar with the time left
// beneath it. Texts are pure functions, so that tests read what users read.
#include <cstdint>
#include <string>

#include "runtime/train/metrics.h"

namespace muster::runtime {

// "step 120/500  loss 3.412  lr 3.0e-4  grad 0.91  tok/s 41,210  MFU 52.1 %  goodput 0.487 |
// compute 91.2 comm 3.1 bubble 2.0 imbalance 3.6 data 0.1" (one line). Behind the bar: percent of
// the step; comm is the sum of the exposed collectives, and what none of these names hold
// (optimizer, checkpoint, other) follows as "rest", if it is 0.05 or more.
std::string ProgressLine(const StepMetrics& metrics, int64_t total_steps);

// "[#######.............]  24 %  3 min 10 s left", at most `columns` wide. seconds_left < 0: not
// known yet.
std::string ProgressBar(int64_t step, int64_t total_steps, double seconds_left, int columns);

// Writes lines to a file descriptor: all on a terminal with the bar beneath, or plain lines.
class Progress {
 public:
  // Prints every `every_steps`-th step and the last.
  Progress(int file, int64_t total_steps, int64_t every_steps);
  ~Progress();  // removes the bar
  Progress(const Progress&) = delete;
  Progress& operator=(const Progress&) = delete;
  void Step(const StepMetrics& metrics);
  // A line of its own, above the bar.
  void Line(const std::string& text);

 private:
  void DrawBar(int64_t step);
  const int file_;
  const int64_t total_steps_, every_steps_;
  const bool terminal_;
  bool bar_shown_ = false;
  double recent_step_seconds_ = 0;  // decaying mean; 0: no step yet
};

}  // namespace muster::runtime
