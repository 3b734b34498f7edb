// Real ranks: one leaves a collective out, or stops; what the others then know.
#include <gtest/gtest.h>
#include <signal.h>
#include <unistd.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <sstream>
#include <thread>

#include "kernels/device/span.h"
#include "parallel/comm/collective_record.h"
#include "parallel/comm/collectives.h"
#include "parallel/comm/hang_report.h"
#include "tests/support/kernels/host_tensor.h"
#include "tests/support/mpi_main.h"

namespace muster::parallel {
namespace {

using kernels::DType;
using std::chrono::milliseconds;

// One directory for all ranks.
std::string SharedDirectory() {
  std::string path;
  if (TestWorld().rank() == 0) {
    char pattern[] = "/tmp/muster_hang_XXXXXX";
    path = mkdtemp(pattern);
  }
  const auto all = TestWorld().GatherText(path);
  MUSTER_CHECK_OK(all.status());
  return all->front();
}

class Hang : public testing::Test {
 protected:
  void SetUp() override {
    if (TestWorld().size() == 1) GTEST_SKIP() << "nobody to wait for";
    directory_ = SharedDirectory();
    auto world = World::Create({.deadline = milliseconds(kDeadlineMs)});
    MUSTER_CHECK_OK(world.status());
    world_ = *std::move(world);
    group_ = GroupOfAll(*world_, "all");
    auto stream = kernels::Stream::Create({}, kernels::StreamMode::kInline, "compute");
    MUSTER_CHECK_OK(stream.status());
    stream_ = std::make_unique<kernels::Stream>(*std::move(stream));
  }
  void TearDown() override {
    if (world_ == nullptr) return;
    MUSTER_CHECK_OK(TestWorld().GatherText("done").status());
    group_.reset();
    world_.reset();
    if (TestWorld().rank() == 0) std::filesystem::remove_all(directory_);
  }
  void Reduce(int64_t step, int bucket) {
    const CollectiveLog::At place(world_->log(), {.step = step, .bucket = bucket});
    (void)AllReduce(x_.view(), ReduceOp::kSum, *group_, stream_->view());
  }
  // What the failed call led to, and how long after `begin` it was known.
  std::string Evidence(int64_t begin_ns, double* ms) {
    EXPECT_FALSE(stream_->view().Synchronize().ok());
    const std::string text = world_->HangEvidence();
    *ms = static_cast<double>(kernels::MonotonicNs() - begin_ns) * 1e-6;
    return text;
  }
  std::string Report() const {
    std::ostringstream text;
    text << std::ifstream(directory_ + "/report.txt").rdbuf();
    return text.str();
  }

  static constexpr int kDeadlineMs = 400;
  std::string directory_;
  std::unique_ptr<World> world_;
  std::unique_ptr<ProcessGroup> group_;
  std::unique_ptr<kernels::Stream> stream_;
  kernels::Tensor x_ = kernels::RandomTensor(DType::kFloat32, {1000}, "x");
};

TEST_F(Hang, NamesTheRankThatSkipsACollectiveWithinItsDeadlineAndASecond) {
  world_->KeepHangEvidence(directory_);
  const int wrong = world_->size() - 1;
  for (int bucket = 0; bucket < 3; ++bucket) Reduce(1, bucket);
  if (world_->rank() == wrong) world_->log().SkipNextCall("all");
  const int64_t begin = kernels::MonotonicNs();
  for (int bucket = 0; bucket < 3; ++bucket) Reduce(2, bucket);
  if (world_->rank() != wrong) {
    double ms = 0;
    const std::string text = Evidence(begin, &ms);
    EXPECT_LT(ms, kDeadlineMs + 1000) << text;
    EXPECT_TRUE(text.starts_with("hang: ") || text.find("report.txt") != std::string::npos) << text;
    const std::string report = Report();
    for (const std::string& part :
         {std::string("all_reduce #3 of group all, step 2, bucket 0, 4000 bytes, from "
                      "tests/parallel/hang_mpi_test.cc:"),
          "rank " + std::to_string(wrong) + " left it out"}) {
      EXPECT_NE(report.find(part), std::string::npos) << part << " not in\n" << report;
    }
  }
}

// "T": stopped by a signal.
char StateOf(int pid) {
  std::ifstream file("/proc/" + std::to_string(pid) + "/stat");
  std::string text((std::istreambuf_iterator<char>(file)), std::istreambuf_iterator<char>());
  const size_t name_end = text.rfind(')');
  return name_end + 2 < text.size() ? text[name_end + 2] : '?';
}

TEST_F(Hang, NamesTheRankThatIsStoppedWithinItsDeadlineAndASecond) {
  world_->KeepHangEvidence(directory_);
  const auto pids = TestWorld().GatherText(std::to_string(getpid()));
  MUSTER_CHECK_OK(pids.status());
  const int stopped = world_->size() - 1;
  for (int bucket = 0; bucket < 3; ++bucket) Reduce(1, bucket);
  if (world_->rank() == stopped) {
    raise(SIGSTOP);  // until rank 0 lets it go on
    return;
  }
  const int64_t begin = kernels::MonotonicNs();
  Reduce(2, 7);
  double ms = 0;
  const std::string text = Evidence(begin, &ms);
  EXPECT_LT(ms, kDeadlineMs + 1000) << text;
  const std::string report = Report();
  const std::string name = "rank " + std::to_string(stopped);
  for (const std::string& part :
       {std::string("all_reduce #3 of group all, step 2, bucket 7, 4000 bytes, from "
                    "tests/parallel/hang_mpi_test.cc:"),
        name + " has not come to it, and wrote no log: it is stopped, dead or cut off",
        "rank " + std::to_string(world_->rank()) + " waits for " + name}) {
    EXPECT_NE(report.find(part), std::string::npos) << part << " not in\n" << report;
  }
  if (world_->rank() != 0) return;
  const int pid = std::stoi((*pids)[static_cast<size_t>(stopped)]);
  // Not before it is stopped, or nobody would wake it up.
  while (StateOf(pid) != 'T') std::this_thread::sleep_for(milliseconds(5));
  kill(pid, SIGCONT);
}

}  // namespace
}  // namespace muster::parallel
