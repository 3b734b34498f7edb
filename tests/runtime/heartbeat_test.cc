// Frames, and a supervisor's server against honest ranks and against peers that misbehave.
#include <arpa/inet.h>
#include <gtest/gtest.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <unistd.h>

#include <atomic>
#include <chrono>
#include <random>
#include <set>
#include <thread>

#include "kernels/device/span.h"
#include "runtime/fault/heartbeat_frame.h"
#include "runtime/fault/heartbeat_server.h"
#include "runtime/fault/pulse.h"

namespace muster::runtime {
namespace {

Frame SomeFrame() {
  Frame frame;
  frame.type = Frame::Type::kBeat;
  frame.attempt = 3;
  frame.rank = 2;
  frame.world_size = 4;
  frame.pid = 77;
  frame.sequence = 5;
  frame.state = State::kStep;
  frame.step = 12;
  frame.steps_done = 11;
  for (size_t i = 0; i < frame.work.size(); ++i) {
    const auto n = static_cast<int64_t>(i);
    frame.work[i] = {.even_ns = 1'000 * n, .uneven_ns = 2'000 * n, .uneven_rows = 1'000 + n};
  }
  frame.step_ns = 2'000;
  frame.last_step_ns = 200;
  frame.process_space = 0x1234'5678'9abc'def0;
  frame.host = "node1." + std::string(58, 'x');
  frame.doing = "all_reduce world #7";
  return frame;
}

TEST(HeartbeatFrame, WhatIsEncodedIsDecoded) {
  const Frame frame = SomeFrame();
  const FrameBytes bytes = EncodeFrame(frame, "key");
  const auto decoded = DecodeFrame({bytes.data(), bytes.size()}, "key");
  ASSERT_TRUE(decoded);
  EXPECT_EQ(decoded->rank, 2);
  EXPECT_EQ(decoded->attempt, 3);
  EXPECT_EQ(decoded->world_size, 4);
  EXPECT_EQ(decoded->sequence, 5u);
  EXPECT_EQ(decoded->state, State::kStep);
  EXPECT_EQ(decoded->step, 12);
  EXPECT_EQ(decoded->steps_done, 11);
  EXPECT_EQ(decoded->last_step_ns, 200);
  EXPECT_EQ(decoded->work, frame.work);
  EXPECT_EQ(decoded->process_space, frame.process_space);
  EXPECT_EQ(decoded->host, frame.host) << "the longest that gethostname gives";
  EXPECT_EQ(decoded->doing, "all_reduce world #7");
}

TEST(HeartbeatFrame, EveryFlippedBitIsNoticed) {
  const FrameBytes bytes = EncodeFrame(SomeFrame(), "key");
  for (size_t bit = 0; bit < bytes.size() * 8; ++bit) {
    FrameBytes flipped = bytes;
    flipped[bit / 8] = static_cast<char>(flipped[bit / 8] ^ (1 << (bit % 8)));
    EXPECT_FALSE(DecodeFrame({flipped.data(), flipped.size()}, "key")) << bit;
  }
  EXPECT_FALSE(DecodeFrame({bytes.data(), bytes.size()}, "another key"));
  EXPECT_FALSE(DecodeFrame({bytes.data(), bytes.size() - 1}, "key"));
}

TEST(HeartbeatFrame, AuthenticNonsenseIsRefused) {
  for (const auto& spoil : std::vector<void (*)(Frame*)>{
           [](Frame* f) { f->rank = 4; }, [](Frame* f) { f->rank = -1; },
           [](Frame* f) { f->state = static_cast<State>(99); }, [](Frame* f) { f->step = -1; },
           [](Frame* f) { f->world_size = 0; }, [](Frame* f) { f->last_step_ns = -5; },
           [](Frame* f) { f->type = static_cast<Frame::Type>(9); }}) {
    Frame frame = SomeFrame();
    spoil(&frame);
    const FrameBytes bytes = EncodeFrame(frame, "key");
    EXPECT_FALSE(DecodeFrame({bytes.data(), bytes.size()}, "key"));
  }
}

TEST(RunSecret, TravelsAsHexAndIsDrawnAnewEachTime) {
  std::set<std::string> drawn;
  for (int i = 0; i < 100; ++i) drawn.insert(RunSecret::Draw().Hex());
  EXPECT_EQ(drawn.size(), 100u);
  const auto parsed = RunSecret::Parse(*drawn.begin());
  ASSERT_TRUE(parsed.ok());
  EXPECT_EQ(parsed->Hex(), *drawn.begin());
  for (const char* bad : {"", "00", "zz", "0123456789abcdef0123456789abcdeG"}) {
    const auto status = RunSecret::Parse(bad).status();
    EXPECT_FALSE(status.ok());
    if (*bad != '\0') EXPECT_EQ(status.message().find(bad), absl::string_view::npos) << "leaked";
  }
}

class Heartbeats : public ::testing::Test {
 protected:
  Heartbeats() {
    auto server = HeartbeatServer::Listen("127.0.0.1", RunSecret::Draw());
    if (!server.ok()) {
      ADD_FAILURE() << server.status();
      return;
    }
    server_ = *std::move(server);
    server_->Expect(1, 2);
  }

  PulseOptions OptionsOf(int rank, int attempt = 1, int world_size = 2) {
    PulseOptions options;
    options.supervisor = {server_->address(), server_->secret()};
    options.rank = rank;
    options.attempt = attempt;
    options.world_size = world_size;
    options.host = "here";
    options.interval_ms = 20;
    options.on_supervisor_lost = [this](bool dismissed) { ++(dismissed ? dismissed_ : lost_); };
    return options;
  }

  // Runs the server while a function that blocks on it runs on another thread.
  template <typename F>
  void Meanwhile(F function) {
    std::atomic<bool> done{false};
    std::thread other([&] {
      function();
      done = true;
    });
    while (!done) CollectFor(5);
    other.join();
  }
  std::unique_ptr<Pulse> StartPulse(PulseOptions options, RankProgress* progress) {
    absl::StatusOr<std::unique_ptr<Pulse>> pulse;
    Meanwhile([&] { pulse = Pulse::Start(std::move(options), progress); });
    EXPECT_TRUE(pulse.ok()) << pulse.status();
    return pulse.ok() ? *std::move(pulse) : nullptr;
  }
  void CollectFor(int ms) {
    const int64_t end = kernels::MonotonicNs() + ms * int64_t{1'000'000};
    do {
      for (RankEvent& event : server_->Collect()) events_.push_back(std::move(event));
      std::this_thread::sleep_for(std::chrono::milliseconds(1));
    } while (kernels::MonotonicNs() < end);
  }
  template <typename F>
  bool CollectUntil(F happened, int ms = 5'000) {
    const int64_t end = kernels::MonotonicNs() + ms * int64_t{1'000'000};
    while (!happened() && kernels::MonotonicNs() < end) CollectFor(2);
    return happened();
  }
  int Count(RankEvent::Kind kind, int rank) const {
    int count = 0;
    for (const RankEvent& event : events_) count += event.kind == kind && event.rank == rank;
    return count;
  }

  // A peer by hand, with the greeting read.
  int ConnectByHand(std::string* nonce) {
    const int fd = socket(AF_INET, SOCK_STREAM, 0);
    sockaddr_in where{};
    where.sin_family = AF_INET;
    where.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    const std::string port = server_->address().substr(server_->address().find(':') + 1);
    where.sin_port = htons(static_cast<uint16_t>(std::stoi(port)));
    EXPECT_EQ(connect(fd, reinterpret_cast<sockaddr*>(&where), sizeof(where)), 0);
    Meanwhile([&] {
      GreetingBytes greeting{};
      EXPECT_EQ(recv(fd, greeting.data(), greeting.size(), MSG_WAITALL), ssize_t{kGreetingBytes});
      *nonce = DecodeGreeting({greeting.data(), greeting.size()}).value_or("");
    });
    return fd;
  }
  // Whether the server has closed this connection.
  bool IsClosed(int fd) {
    return CollectUntil([fd] {
      char byte;
      return recv(fd, &byte, 1, MSG_DONTWAIT) == 0 || errno == ECONNRESET;
    });
  }
  static void SendFrame(int fd, const FrameBytes& bytes) {
    EXPECT_EQ(send(fd, bytes.data(), bytes.size(), MSG_NOSIGNAL), ssize_t{kFrameBytes});
  }
  FrameBytes Hello(std::string_view nonce, int rank, uint64_t sequence = 0) {
    Frame frame;
    frame.type = Frame::Type::kHello;
    frame.attempt = 1;
    frame.rank = rank;
    frame.world_size = 2;
    frame.sequence = sequence;
    return EncodeFrame(frame, ConnectionKey(server_->secret(), nonce));
  }

  std::atomic<int> lost_{0}, dismissed_{0};
  std::unique_ptr<HeartbeatServer> server_;
  std::vector<RankEvent> events_;
};

TEST_F(Heartbeats, ARankIsHeardFromHelloToGoodbye) {
  RankProgress progress;
  auto pulse = StartPulse(OptionsOf(1), &progress);
  ASSERT_NE(pulse, nullptr);
  pulse->SetDoing([] { return std::string("a barrier"); });
  progress.StepBegan(4);
  EXPECT_TRUE(CollectUntil([&] {
    return !events_.empty() && events_.back().frame.step == 4 &&
           events_.back().frame.doing == "a barrier";
  }));
  EXPECT_TRUE(server_->Connected(1));
  StepEnd end;
  end.step = 4;
  end.time_ns[parallel::kCompute] = 70'000;
  end.time_ns[parallel::kImbalance] = 30'000;
  progress.StepEnded(end);
  EXPECT_TRUE(CollectUntil([&] { return events_.back().frame.steps_done == 1; }));
  EXPECT_EQ(events_.back().frame.work[1].even_ns, 70'000);
  EXPECT_EQ(events_.back().frame.step_ns, 100'000);
  pulse->Leave(75);
  pulse.reset();
  EXPECT_TRUE(CollectUntil([&] { return !server_->Connected(1); }));
  EXPECT_EQ(events_.back().frame.type, Frame::Type::kGoodbye);
  EXPECT_EQ(events_.back().frame.exit_code, 75);
  EXPECT_EQ(Count(RankEvent::Kind::kLost, 1), 0);
  EXPECT_EQ(lost_, 0);
}

TEST_F(Heartbeats, AClosedConnectionWithoutGoodbyeIsALoss) {
  std::string nonce;
  const int fd = ConnectByHand(&nonce);
  SendFrame(fd, Hello(nonce, 0));
  EXPECT_TRUE(CollectUntil([&] { return server_->Connected(0); }));
  close(fd);
  const int64_t closed = kernels::MonotonicNs();
  EXPECT_TRUE(CollectUntil([&] { return Count(RankEvent::Kind::kLost, 0) == 1; }));
  EXPECT_LT(events_.back().at_ns - closed, 1'000'000'000);
}

TEST_F(Heartbeats, ARankThatIsAskedForEvidenceGivesItAndGoesOn) {
  RankProgress progress;
  std::atomic<int> asked{0};
  auto pulse = StartPulse(OptionsOf(1), &progress);
  ASSERT_NE(pulse, nullptr);
  pulse->SetEvidence([&] { ++asked; });
  EXPECT_TRUE(CollectUntil([&] { return server_->Connected(1); }));
  server_->AskForEvidence();
  EXPECT_TRUE(CollectUntil([&] { return asked == 1; }));
  events_.clear();
  EXPECT_TRUE(CollectUntil([&] { return Count(RankEvent::Kind::kFrame, 1) > 2; }));
  EXPECT_EQ(asked, 1);
  EXPECT_EQ(lost_, 0);
}

// A disk that takes no record until it is told to.
class StuckLedger : public LedgerWriter {
 public:
  int64_t Enter(State) override { return 0; }
  void StepBegin(int64_t) override {}
  void StepEnded(const StepEnd&) override {}
  void Checkpoint(const CheckpointEvent&) override {}
  void Skip(int64_t, std::string_view) override {}
  void Heartbeat() override {
    waits = true;
    waits.notify_all();
    goes_on.wait(false);
  }
  void End(int) override {}
  absl::Status status() const override { return absl::OkStatus(); }
  int64_t synced_ns() const override { return 0; }
  int64_t num_lost() const override { return 0; }

  std::atomic<bool> waits{false}, goes_on{false};
};

TEST_F(Heartbeats, ARankWhoseDiskTakesNothingIsStillHeard) {
  RankProgress progress;
  StuckLedger ledger;
  progress.Attach(&ledger);
  auto pulse = StartPulse(OptionsOf(1), &progress);
  ASSERT_NE(pulse, nullptr);
  ledger.waits.wait(false);
  CollectFor(5);
  events_.clear();
  EXPECT_TRUE(CollectUntil([&] { return Count(RankEvent::Kind::kFrame, 1) > 2; }));
  ledger.goes_on = true;
  ledger.goes_on.notify_all();
}

TEST_F(Heartbeats, ARankEndsWhenItsSupervisorDoes) {
  RankProgress progress;
  auto pulse = StartPulse(OptionsOf(0), &progress);
  ASSERT_NE(pulse, nullptr);
  CollectFor(30);
  const int64_t death = kernels::MonotonicNs();
  server_.reset();
  while (lost_ == 0 && kernels::MonotonicNs() - death < 5'000'000'000) {
    std::this_thread::sleep_for(std::chrono::milliseconds(5));
  }
  EXPECT_EQ(lost_, 1);
  EXPECT_LT(kernels::MonotonicNs() - death, 2'000'000'000);
}

TEST_F(Heartbeats, StrangersAreRefused) {
  std::string nonce;
  // Another secret.
  int fd = ConnectByHand(&nonce);
  Frame hello;
  hello.type = Frame::Type::kHello;
  hello.attempt = 1;
  hello.world_size = 2;
  SendFrame(fd, EncodeFrame(hello, ConnectionKey(RunSecret::Draw(), nonce)));
  EXPECT_TRUE(IsClosed(fd));
  close(fd);
  // A frame that was right on another connection.
  std::string other_nonce;
  const int other = ConnectByHand(&other_nonce);
  fd = ConnectByHand(&nonce);
  SendFrame(fd, Hello(other_nonce, 0));
  EXPECT_TRUE(IsClosed(fd));
  close(fd);
  close(other);
  // Noise.
  std::mt19937 random(7);
  fd = ConnectByHand(&nonce);
  std::string noise(10'000, '\0');
  for (char& c : noise) c = static_cast<char>(random());
  send(fd, noise.data(), noise.size(), MSG_NOSIGNAL);
  EXPECT_TRUE(IsClosed(fd));
  close(fd);
  EXPECT_TRUE(events_.empty());
  EXPECT_GE(server_->refused(), 3);
}

TEST_F(Heartbeats, OnlyRanksOfThisAttemptAreWelcomeAndEachOnce) {
  RankProgress progress;
  for (PulseOptions options : {OptionsOf(0, 0), OptionsOf(0, 1, 3)}) {
    const int before = lost_;
    auto pulse = StartPulse(options, &progress);
    EXPECT_TRUE(CollectUntil([&] { return lost_ > before; }));
  }
  EXPECT_TRUE(events_.empty());
  auto first = StartPulse(OptionsOf(0), &progress);
  EXPECT_TRUE(CollectUntil([&] { return server_->Connected(0); }));
  const int before = lost_;
  auto second = StartPulse(OptionsOf(0), &progress);
  EXPECT_TRUE(CollectUntil([&] { return lost_ > before; }));
  EXPECT_TRUE(server_->Connected(0));
  EXPECT_EQ(Count(RankEvent::Kind::kLost, 0), 0);
  Meanwhile([&] { first->Leave(0); });
}

TEST_F(Heartbeats, RanksThatAreDismissedHearOfItAndTheirEndsAreSeen) {
  RankProgress progress;
  auto pulse = StartPulse(OptionsOf(0), &progress);
  EXPECT_TRUE(CollectUntil([&] { return server_->Connected(0); }));
  server_->Dismiss();
  EXPECT_TRUE(CollectUntil([&] { return dismissed_ == 1; }));
  EXPECT_EQ(lost_, 0);
  EXPECT_TRUE(server_->Connected(0)) << "it may still be there";
  Meanwhile([&] { pulse.reset(); });
  EXPECT_TRUE(CollectUntil([&] { return !server_->Connected(0); }));
}

TEST_F(Heartbeats, ARankThatIsDroppedIsNoLoss) {
  RankProgress progress;
  auto pulse = StartPulse(OptionsOf(0), &progress);
  EXPECT_TRUE(CollectUntil([&] { return server_->Connected(0); }));
  server_->Drop(0);
  server_->Drop(1);  // was never there
  EXPECT_FALSE(server_->Connected(0));
  EXPECT_TRUE(CollectUntil([&] { return lost_ == 1; }));
  EXPECT_EQ(Count(RankEvent::Kind::kLost, 0), 0);
}

TEST_F(Heartbeats, AReplayedOrSkippedFrameEndsTheConnection) {
  for (const uint64_t sequence : {uint64_t{0}, uint64_t{2}}) {
    std::string nonce;
    const int fd = ConnectByHand(&nonce);
    SendFrame(fd, Hello(nonce, 0));
    SendFrame(fd, Hello(nonce, 0, sequence));
    EXPECT_TRUE(IsClosed(fd)) << sequence;
    close(fd);
  }
}

TEST_F(Heartbeats, PeersThatNeverSpeakCostNoMoreThanTheirPlaces) {
  std::vector<int> fds;
  sockaddr_in where{};
  where.sin_family = AF_INET;
  where.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  const std::string port = server_->address().substr(server_->address().find(':') + 1);
  where.sin_port = htons(static_cast<uint16_t>(std::stoi(port)));
  for (int i = 0; i < 100; ++i) {
    fds.push_back(socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0));
    connect(fds.back(), reinterpret_cast<sockaddr*>(&where), sizeof(where));
  }
  EXPECT_TRUE(CollectUntil([&] { return server_->refused() >= 100 - 34; }));
  // Those that were let in are shown out after 5 s, and then a rank gets its place.
  EXPECT_TRUE(CollectUntil([&] { return server_->refused() >= 100; }, 8'000));
  for (const int fd : fds) close(fd);
  RankProgress progress;
  auto pulse = StartPulse(OptionsOf(1), &progress);
  EXPECT_TRUE(CollectUntil([&] { return server_->Connected(1); }));
  if (pulse) Meanwhile([&] { pulse->Leave(0); });
}

TEST(RankProgress, WorkIsNoWaitForOthersAndApartIfARouterGaveIt) {
  RankProgress progress;
  StepEnd end;
  end.time_ns[parallel::kCompute] = 100;
  end.time_ns[parallel::kData] = 5;
  end.time_ns[parallel::kOptimizer] = 20;
  end.time_ns[parallel::kExposedEp] = 30;
  end.time_ns[parallel::kOther] = 10;
  progress.NoteUneven(40, 7);  // of the compute
  progress.StepEnded(end);
  EXPECT_EQ(progress.facts().work[1], (StepWork{.even_ns = 65, .uneven_ns = 40, .uneven_rows = 7}));
  EXPECT_EQ(progress.facts().last_step_ns, 165);
  progress.StepEnded(end);
  EXPECT_EQ(progress.facts().work[2], (StepWork{.even_ns = 105}))
      << "the router's was of the step before only";
  EXPECT_EQ(progress.facts().step_ns, 330);
}

TEST(RankProgress, TheLastStepsAreRemembered) {
  RankProgress progress;
  StepEnd end;
  for (int64_t step = 1; step <= 40; ++step) {
    end.time_ns[parallel::kCompute] = step;
    progress.StepEnded(end);
  }
  const ProgressFacts facts = progress.facts();
  for (int64_t step = 41 - static_cast<int64_t>(kStepsRemembered); step <= 40; ++step) {
    EXPECT_EQ(facts.work[static_cast<size_t>(step) % kStepsRemembered].even_ns, step);
  }
}

TEST(Pulse, WithoutASupervisorOnlyTheLedgerIsKeptAlive) {
  RankProgress progress;
  auto pulse = Pulse::Start({.interval_ms = 10}, &progress);
  ASSERT_TRUE(pulse.ok()) << pulse.status();
  std::this_thread::sleep_for(std::chrono::milliseconds(50));
  (*pulse)->Leave(0);
}

TEST(Pulse, ASupervisorThatIsNotThereIsAnError) {
  RankProgress progress;
  PulseOptions options;
  options.supervisor = {"127.0.0.1:1", RunSecret::Draw()};
  EXPECT_EQ(Pulse::Start(options, &progress).status().code(), absl::StatusCode::kUnavailable);
  options.supervisor->address = "nonsense";
  EXPECT_EQ(Pulse::Start(options, &progress).status().code(), absl::StatusCode::kInvalidArgument);
}

}  // namespace
}  // namespace muster::runtime
