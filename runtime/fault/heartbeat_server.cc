#include "runtime/fault/heartbeat_server.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <openssl/rand.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>

#include "absl/strings/str_cat.h"
#include "kernels/base/error.h"
#include "kernels/device/span.h"

namespace muster::runtime {
namespace {

// A peer must have said who it is by then.
constexpr int64_t kHelloDeadlineNs = 5'000'000'000;
// Connections beyond the ranks' own that may be open at once.
constexpr size_t kStrangers = 32;

bool Watch(int epoll, int fd) {
  epoll_event event{};
  event.events = EPOLLIN | EPOLLRDHUP;
  event.data.fd = fd;
  return epoll_ctl(epoll, EPOLL_CTL_ADD, fd, &event) == 0;
}

absl::Status Error(const std::string& what, const std::string& address) {
  const bool not_here = errno == EADDRNOTAVAIL;
  return absl::Status(
      not_here ? absl::StatusCode::kInvalidArgument : absl::StatusCode::kUnavailable,
      absl::StrCat("supervisor's socket: ", what, " ", address, ": ", std::strerror(errno)));
}

}  // namespace

absl::StatusOr<std::unique_ptr<HeartbeatServer>> HeartbeatServer::Listen(const std::string& address,
                                                                         RunSecret secret) {
  sockaddr_in where{};
  where.sin_family = AF_INET;
  if (inet_pton(AF_INET, address.c_str(), &where.sin_addr) != 1) {
    return absl::InvalidArgumentError(
        absl::StrCat("supervisor's socket: '", address,
                     "' is no IPv4 address; wanted one of this host, as 127.0.0.1"));
  }
  const int listener = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
  if (listener < 0) return Error("cannot make one for", address);
  socklen_t size = sizeof(where);
  if (bind(listener, reinterpret_cast<sockaddr*>(&where), size) != 0 ||
      listen(listener, SOMAXCONN) != 0 ||
      getsockname(listener, reinterpret_cast<sockaddr*>(&where), &size) != 0) {
    const absl::Status error = Error("cannot listen on", address);
    close(listener);
    return error;
  }
  const int epoll = epoll_create1(EPOLL_CLOEXEC);
  if (epoll < 0 || !Watch(epoll, listener)) {
    const absl::Status error = Error("cannot watch", address);
    close(listener);
    if (epoll >= 0) close(epoll);
    return error;
  }
  return std::unique_ptr<HeartbeatServer>(new HeartbeatServer(
      listener, epoll, absl::StrCat(address, ":", ntohs(where.sin_port)), std::move(secret)));
}

HeartbeatServer::~HeartbeatServer() {
  for (const auto& [fd, connection] : connections_) close(fd);
  close(epoll_);
  close(listener_);
}

void HeartbeatServer::Expect(int attempt, int world_size) {
  for (const auto& [fd, connection] : connections_) close(fd);  // of an attempt before
  connections_.clear();
  by_rank_.clear();
  attempt_ = attempt;
  world_size_ = world_size;
}

std::vector<RankEvent> HeartbeatServer::Collect() {
  std::vector<RankEvent> events;
  // Each round takes another part of those that are ready: whoever waited for long, as after this
  // process was stopped, hears all of them before it judges any.
  std::array<epoll_event, 64> ready;
  for (size_t taken = 0; taken <= connections_.size(); taken += ready.size()) {
    const int count = epoll_wait(epoll_, ready.data(), static_cast<int>(ready.size()), 0);
    for (int i = 0; i < count; ++i) {
      const int fd = ready[static_cast<size_t>(i)].data.fd;
      if (fd == listener_) {
        Accept();
      } else if (connections_.contains(fd)) {
        Read(fd, &events);
      }
    }
    if (count < static_cast<int>(ready.size())) break;
  }
  const int64_t now = kernels::MonotonicNs();
  std::vector<int> late;
  for (const auto& [fd, connection] : connections_) {
    if (connection.rank < 0 && now - connection.accepted_ns > kHelloDeadlineNs) late.push_back(fd);
  }
  for (const int fd : late) Close(fd, true, &events);
  return events;
}

std::vector<Frame> HeartbeatServer::Connected() const {
  std::vector<Frame> frames;
  for (const auto& [rank, fd] : by_rank_) frames.push_back(connections_.at(fd).last);
  return frames;
}

void HeartbeatServer::AskForEvidence() {
  // A socket that takes no byte belongs to a rank that reads none.
  for (const auto& [rank, fd] : by_rank_) (void)send(fd, &kEvidenceRequest, 1, MSG_NOSIGNAL);
}

void HeartbeatServer::Dismiss() {
  for (const auto& [rank, fd] : by_rank_) {
    (void)send(fd, &kDismissal, 1, MSG_NOSIGNAL);
    shutdown(fd, SHUT_WR);
  }
}

void HeartbeatServer::Drop(int rank) {
  const auto found = by_rank_.find(rank);
  if (found == by_rank_.end()) return;
  const int fd = found->second;
  by_rank_.erase(found);
  connections_.erase(fd);
  close(fd);
}

void HeartbeatServer::Accept() {
  while (true) {
    const int fd = accept4(listener_, nullptr, nullptr, SOCK_CLOEXEC | SOCK_NONBLOCK);
    if (fd < 0 && errno == EINTR) continue;
    if (fd < 0) return;
    std::string nonce(kNonceBytes, '\0');
    const bool drawn = RAND_bytes(reinterpret_cast<unsigned char*>(nonce.data()),
                                  static_cast<int>(nonce.size())) == 1;
    const GreetingBytes greeting = EncodeGreeting(nonce);
    // An empty socket takes a greeting whole, or something is wrong with it.
    const bool greeted = drawn &&
                         connections_.size() < static_cast<size_t>(world_size_) + kStrangers &&
                         send(fd, greeting.data(), greeting.size(), MSG_NOSIGNAL) ==
                             static_cast<ssize_t>(greeting.size());
    if (!greeted || !Watch(epoll_, fd)) {
      ++refused_;
      close(fd);
      continue;
    }
    Connection& connection = connections_[fd];
    connection.key = ConnectionKey(secret_, nonce);
    connection.accepted_ns = kernels::MonotonicNs();
  }
}

void HeartbeatServer::Read(int fd, std::vector<RankEvent>* events) {
  Connection& connection = connections_.at(fd);
  while (true) {
    const ssize_t got =
        recv(fd, connection.buffer.data() + connection.used, kFrameBytes - connection.used, 0);
    if (got < 0 && errno == EINTR) continue;
    if (got < 0 && (errno == EAGAIN || errno == EWOULDBLOCK)) return;
    if (got <= 0) return Close(fd, false, events);
    connection.used += static_cast<size_t>(got);
    if (connection.used < kFrameBytes) continue;
    connection.used = 0;
    if (!Take(fd, &connection, events)) return Close(fd, true, events);
  }
}

// A whole frame is in the buffer. False: the peer is not who it should be.
bool HeartbeatServer::Take(int fd, Connection* connection, std::vector<RankEvent>* events) {
  const std::optional<Frame> frame =
      DecodeFrame({connection->buffer.data(), kFrameBytes}, connection->key);
  if (!frame || frame->sequence != connection->next_sequence) return false;
  ++connection->next_sequence;
  if (connection->rank < 0) {
    const bool welcome = frame->type == Frame::Type::kHello && frame->attempt == attempt_ &&
                         frame->world_size == world_size_ && !by_rank_.contains(frame->rank);
    if (!welcome) return false;
    connection->rank = frame->rank;
    by_rank_[frame->rank] = fd;
  } else if (frame->rank != connection->rank || frame->attempt != attempt_) {
    return false;
  }
  connection->last = *frame;
  connection->said_goodbye = frame->type == Frame::Type::kGoodbye;
  events->push_back({RankEvent::Kind::kFrame, frame->rank, *frame, kernels::MonotonicNs()});
  return true;
}

void HeartbeatServer::Close(int fd, bool refused, std::vector<RankEvent>* events) {
  const auto found = connections_.find(fd);
  const Connection& connection = found->second;
  refused_ += refused ? 1 : 0;
  if (connection.rank >= 0) {
    by_rank_.erase(connection.rank);
    if (!connection.said_goodbye) {
      events->push_back(
          {RankEvent::Kind::kLost, connection.rank, connection.last, kernels::MonotonicNs()});
    }
  }
  close(fd);
  connections_.erase(found);
}

}  // namespace muster::runtime
