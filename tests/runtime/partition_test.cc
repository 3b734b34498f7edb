// A rank and its supervisor while the network between them is down: a loopback interface of their
// own.
#include <gtest/gtest.h>
#include <net/if.h>
#include <sched.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <chrono>
#include <cstring>
#include <functional>
#include <thread>

#include "kernels/device/span.h"
#include "runtime/fault/heartbeat_server.h"
#include "runtime/fault/pulse.h"

namespace muster::runtime {
namespace {

constexpr int kNotAllowed = 77, kUnreachableMs = 1'500;

bool SetLoopback(bool up) {
  ifreq request{};
  std::strcpy(request.ifr_name, "lo");
  request.ifr_flags = static_cast<short>(up ? IFF_UP | IFF_RUNNING : 0);
  const int fd = socket(AF_INET, SOCK_DGRAM, 0);
  const bool done = ioctl(fd, SIOCSIFFLAGS, &request) == 0;
  close(fd);
  return done;
}

// A rank that beats to a supervisor, both in this process.
class Pair {
 public:
  Pair() : server_(*HeartbeatServer::Listen("127.0.0.1", RunSecret::Draw())) {
    server_->Expect(0, 1);
    reader_ = std::thread([this] {
      while (!done_) {
        beats_ += static_cast<int>(server_->Collect().size());
        std::this_thread::sleep_for(std::chrono::milliseconds(5));
      }
    });
    PulseOptions options;
    options.supervisor = {server_->address(), server_->secret()};
    options.unreachable_ms = kUnreachableMs;
    options.on_supervisor_lost = [this](bool) { lost_ = true; };
    pulse_ = *Pulse::Start(options, &progress_);
  }
  ~Pair() {
    done_ = true;
    reader_.join();
  }
  bool lost() const { return lost_; }
  int beats() const { return beats_; }
  static bool Until(const std::function<bool()>& happened, int ms) {
    const int64_t end = kernels::MonotonicNs() + ms * int64_t{1'000'000};
    while (!happened() && kernels::MonotonicNs() < end) {
      std::this_thread::sleep_for(std::chrono::milliseconds(5));
    }
    return happened();
  }

 private:
  std::unique_ptr<HeartbeatServer> server_;
  std::atomic<bool> done_{false}, lost_{false};
  std::atomic<int> beats_{0};
  RankProgress progress_;
  std::thread reader_;
  std::unique_ptr<Pulse> pulse_;
};

// The exit code of `test` in a process with a network of its own: 0 if all was well.
int InOwnNetwork(int (*test)()) {
  const pid_t child = fork();
  if (child == 0) {
    const bool allowed = unshare(CLONE_NEWNET) == 0 || unshare(CLONE_NEWUSER | CLONE_NEWNET) == 0;
    _exit(allowed && SetLoopback(true) ? test() : kNotAllowed);
  }
  int status = 0;
  waitpid(child, &status, 0);
  return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}

TEST(Partition, ARankThatCannotReachItsSupervisorNoticesInTime) {
  const int code = InOwnNetwork([] {
    Pair pair;
    if (!Pair::Until([&] { return pair.beats() > 3; }, 10'000)) return 1;
    SetLoopback(false);
    if (Pair::Until([&] { return pair.lost(); }, kUnreachableMs / 2)) return 2;  // too soon
    // Whether TCP notices is looked at twice a second, and by a beat.
    return Pair::Until([&] { return pair.lost(); }, kUnreachableMs / 2 + 2'500) ? 0 : 3;
  });
  if (code == kNotAllowed) GTEST_SKIP() << "may not make network namespaces";
  EXPECT_EQ(code, 0);
}

TEST(Partition, ANetworkThatComesBackInTimeDisturbsNobody) {
  const int code = InOwnNetwork([] {
    Pair pair;
    if (!Pair::Until([&] { return pair.beats() > 3; }, 10'000)) return 1;
    SetLoopback(false);
    const int before = pair.beats();
    std::this_thread::sleep_for(std::chrono::milliseconds(kUnreachableMs / 3));
    if (pair.beats() > before + 1) return 2;  // it was not down
    SetLoopback(true);
    if (!Pair::Until([&] { return pair.beats() > before + 6; }, kUnreachableMs * 4)) return 3;
    return pair.lost() ? 4 : 0;
  });
  if (code == kNotAllowed) GTEST_SKIP() << "may not make network namespaces";
  EXPECT_EQ(code, 0);
}

}  // namespace
}  // namespace muster::runtime
