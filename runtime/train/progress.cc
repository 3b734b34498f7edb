#include "runtime/train/progress.h"

#include <sys/ioctl.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <numeric>
#include <string_view>

#include "absl/strings/str_cat.h"
#include "runtime/goodput/number_text.h"

namespace muster::runtime {
namespace {

constexpr double kRecentWeight = 0.1;  // of the newest step in the mean that predicts the rest
constexpr char kClearLine[] = "\r\x1b[K";

// 0: no terminal that anybody looks at. mpirun gives its ranks a pseudo-terminal in any case, with
// the size of its own terminal, or none if it has none.
int TerminalColumns(int file) {
  winsize size{};
  return isatty(file) == 1 && ioctl(file, TIOCGWINSZ, &size) == 0 ? size.ws_col : 0;
}

// A terminal that has gone away, or a full disk behind it, must not end a training run.
void Show(int file, std::string_view text) {
  while (!text.empty()) {
    const ssize_t written = write(file, text.data(), text.size());
    if (written < 0 && errno == EINTR) continue;
    if (written <= 0) return;
    text.remove_prefix(static_cast<size_t>(written));
  }
}

}  // namespace

std::string ProgressLine(const StepMetrics& metrics, int64_t total_steps) {
  const auto& seconds = metrics.breakdown_seconds;
  const double whole = std::accumulate(seconds.begin(), seconds.end(), 0.0);
  const auto percent = [whole](double part) { return whole > 0 ? 100 * part / whole : 0; };
  const double comm = std::accumulate(seconds.begin() + parallel::kExposedDp,
                                      seconds.begin() + parallel::kExposedEp + 1, 0.0);
  const double named = seconds[parallel::kCompute] + comm + seconds[parallel::kBubble] +
                       seconds[parallel::kImbalance] + seconds[parallel::kData];
  const double tokens_per_second =
      metrics.step_seconds > 0 ? static_cast<double>(metrics.tokens) / metrics.step_seconds : 0;
  const std::string total = std::to_string(total_steps);
  std::string line =
      "step " + PadLeft(std::to_string(metrics.step), total.size()) + "/" + total + "  loss " +
      Fixed(metrics.loss, 3) + "  lr " + Scientific(metrics.learning_rate, 1) + "  grad " +
      Fixed(metrics.grad_norm, 2) + "  tok/s " + WithThousands(tokens_per_second, 0) + "  MFU " +
      Fixed(100 * metrics.mfu, 1) + " %  goodput " + Fixed(metrics.goodput, 3) + " | compute " +
      Fixed(percent(seconds[parallel::kCompute]), 1) + " comm " + Fixed(percent(comm), 1) +
      " bubble " + Fixed(percent(seconds[parallel::kBubble]), 1) + " imbalance " +
      Fixed(percent(seconds[parallel::kImbalance]), 1) + " data " +
      Fixed(percent(seconds[parallel::kData]), 1);
  if (percent(whole - named) >= 0.05) line += " rest " + Fixed(percent(whole - named), 1);
  if (metrics.skipped) line += "  SKIPPED: the gradient is not finite";
  return line;
}

std::string ProgressBar(int64_t step, int64_t total_steps, double seconds_left, int columns) {
  const double share =
      total_steps > 0
          ? std::clamp(static_cast<double>(step) / static_cast<double>(total_steps), 0.0, 1.0)
          : 1.0;
  std::string tail = PadLeft(Fixed(100 * share, 0), 3) + " %";
  if (seconds_left >= 0) tail += "  " + DurationText(seconds_left) + " left";
  const int room = columns - static_cast<int>(tail.size()) - 4;  // brackets and two spaces
  if (room < 4) return tail.substr(0, static_cast<size_t>(std::max(columns, 0)));
  const int width = std::min(room, 40);
  const int filled = static_cast<int>(share * width);
  return absl::StrCat("[", std::string(static_cast<size_t>(filled), '#'),
                      std::string(static_cast<size_t>(width - filled), '.'), "]  ", tail);
}

Progress::Progress(int file, int64_t total_steps, int64_t every_steps)
    : file_(file),
      total_steps_(total_steps),
      every_steps_(std::max<int64_t>(every_steps, 1)),
      terminal_(TerminalColumns(file) > 0) {}

Progress::~Progress() {
  if (bar_shown_) Show(file_, kClearLine);
}

void Progress::Step(const StepMetrics& metrics) {
  recent_step_seconds_ =
      recent_step_seconds_ == 0
          ? metrics.step_seconds
          : recent_step_seconds_ + kRecentWeight * (metrics.step_seconds - recent_step_seconds_);
  const bool last = metrics.step >= total_steps_;
  if (metrics.step % every_steps_ == 0 || last || metrics.skipped) {
    Line(ProgressLine(metrics, total_steps_));
  }
  if (terminal_ && !last) DrawBar(metrics.step);
}

void Progress::Line(const std::string& text) {
  const std::string front = bar_shown_ ? kClearLine : "";
  bar_shown_ = false;
  Show(file_, front + text + "\n");
}

void Progress::DrawBar(int64_t step) {
  const double left = recent_step_seconds_ * static_cast<double>(total_steps_ - step);
  // One column stays free: a full last column makes some terminals wrap.
  const std::string bar = ProgressBar(step, total_steps_, left, TerminalColumns(file_) - 1);
  Show(file_, kClearLine + bar);
  bar_shown_ = true;
}

}  // namespace muster::runtime
