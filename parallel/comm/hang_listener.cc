#include "parallel/comm/hang_listener.h"

#include <fcntl.h>
#include <mpi.h>
#include <unistd.h>

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <utility>

#include "kernels/base/log.h"
#include "kernels/device/span.h"
#include "parallel/comm/collective_record.h"
#include "parallel/comm/hang_report.h"

namespace muster::parallel {
namespace {

using Clock = std::chrono::steady_clock;

// A message without content; it is so short that it leaves at once.
void Post(MpiHandle communicator, int rank, int tag) {
  MPI_Request request = MPI_REQUEST_NULL;
  MPI_Isend(nullptr, 0, MPI_BYTE, rank, tag, MPI_Comm_f2c(communicator), &request);
  if (request != MPI_REQUEST_NULL) MPI_Request_free(&request);
}

// The sender of a message with this tag, or -1.
int Take(MpiHandle communicator, int tag) {
  const MPI_Comm world = MPI_Comm_f2c(communicator);
  int there = 0;
  MPI_Status status;
  if (MPI_Iprobe(MPI_ANY_SOURCE, tag, world, &there, &status) != MPI_SUCCESS || !there) return -1;
  const int sender = status.MPI_SOURCE;
  MPI_Recv(nullptr, 0, MPI_BYTE, sender, tag, world, MPI_STATUS_IGNORE);
  return sender;
}

// Whether this is the first rank to say so.
bool Claim(const std::string& path) {
  const int fd = open(path.c_str(), O_CREAT | O_EXCL | O_WRONLY | O_CLOEXEC, 0600);
  if (fd >= 0) close(fd);
  return fd >= 0;
}

absl::Status WriteWhole(const std::string& path, const std::string& text) {
  const std::string temporary = path + ".tmp";
  {
    std::ofstream file(temporary, std::ios::trunc);
    file << text << std::flush;
    if (!file) return absl::UnavailableError("cannot write " + temporary);
  }
  std::error_code error;
  std::filesystem::rename(temporary, path, error);
  return error ? absl::UnavailableError("cannot write " + path + ": " + error.message())
               : absl::OkStatus();
}

}  // namespace

HangListener::HangListener(Options options)
    : options_(std::move(options)), answered_(static_cast<size_t>(options_.world_size)) {
  thread_ = std::thread([this] { Run(); });
}

HangListener::~HangListener() {
  {
    std::lock_guard lock(mutex_);
    stopping_ = true;
  }
  changed_.notify_all();
  thread_.join();
}

void HangListener::Run() {
  std::unique_lock lock(mutex_);
  Clock::time_point gathered_at;
  while (!changed_.wait_for(lock, kLook, [this] { return stopping_; })) {
    lock.unlock();
    Answer();
    std::string evidence;
    const bool gathers = options_.world_failed->load() && !gathered_;
    if (gathers) {
      WriteOwn();
      CollectAnswers();
      evidence = Explain();
      // Said here: the rank's own thread may first have to unwind, or never come to say it.
      kernels::Log(kernels::Severity::kError, "a collective failed\n" + evidence);
      gathered_at = Clock::now();
    }
    lock.lock();
    if (gathers) {
      gathered_ = true;
      evidence_ = std::move(evidence);
      changed_.notify_all();
    }
    if (!gathered_ || asked_ || Clock::now() - gathered_at < kGrace) continue;
    kernels::Log(kernels::Severity::kError,
                 "the thread that waits for the failed collective does not end: the job is ended");
    options_.abort();
    return;
  }
}

void HangListener::Answer() {
  for (int peer = Take(options_.communicator, kRequestTag); peer >= 0;
       peer = Take(options_.communicator, kRequestTag)) {
    // A process that was stopped and runs again comes too late: it counts as silent.
    if (!std::filesystem::exists(ReportPath())) WriteOwn();
    Post(options_.communicator, peer, kAnswerTag);
  }
}

void HangListener::WriteOwn() {
  if (std::exchange(wrote_, true)) return;
  const absl::Status status =
      WriteRecord(options_.directory, RecordNow(options_.rank, options_.world_size, options_.host,
                                                options_.deadline->load(), *options_.log));
  if (!status.ok()) kernels::Log(kernels::Severity::kWarning, std::string(status.message()));
}

void HangListener::CollectAnswers() {
  for (int peer = 0; peer < options_.world_size; ++peer) {
    if (peer != options_.rank) Post(options_.communicator, peer, kRequestTag);
  }
  answered_[static_cast<size_t>(options_.rank)] = true;
  const auto end = Clock::now() + kAnswerTime;
  while (std::count(answered_.begin(), answered_.end(), false) > 0 && Clock::now() < end) {
    Answer();
    const int peer = Take(options_.communicator, kAnswerTag);
    if (peer >= 0) {
      answered_[static_cast<size_t>(peer)] = true;
    } else {
      std::this_thread::sleep_for(std::chrono::milliseconds(2));
    }
  }
}

std::string HangListener::Explain() {
  if (Claim(options_.directory + "/reader")) {
    const auto records = ReadRecords(options_.directory);
    if (!records.ok()) return std::string(records.status().message());
    const std::string text = Describe(ExplainHang(*records));
    const absl::Status status = WriteWhole(ReportPath(), text);
    return status.ok() ? text : text + std::string(status.message()) + "\n";
  }
  // Whoever ends first ends all: the explanation has to be there, and to be said, before.
  const auto end = Clock::now() + kAnswerTime + kGrace;
  while (!std::filesystem::exists(ReportPath()) && Clock::now() < end) {
    Answer();
    std::this_thread::sleep_for(std::chrono::milliseconds(5));
  }
  std::this_thread::sleep_for(std::chrono::milliseconds(100));
  return "explained in " + ReportPath() + ", or by `muster hang`\n";
}

std::string HangListener::Evidence() {
  if (!options_.world_failed->load()) return "";
  std::unique_lock lock(mutex_);
  asked_ = true;
  changed_.wait(lock, [this] { return gathered_; });
  return evidence_;
}

}  // namespace muster::parallel
