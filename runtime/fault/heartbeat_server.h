#pragma once
// The supervisor's end of its ranks' connections. It never blocks, trusts nobody before the first
// authentic frame, and bounds what a peer can cost: connections, bytes buffered (one frame each),
// and the time until a peer has said who it is.
#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "runtime/fault/heartbeat_frame.h"

namespace muster::runtime {

struct RankEvent {
  enum class Kind { kFrame, kLost };  // kLost: the connection is closed, and there was no goodbye
  Kind kind = Kind::kFrame;
  int rank = 0;
  Frame frame;  // kLost: the last one that came
  int64_t at_ns = 0;
};

class HeartbeatServer {
 public:
  // Listens on a free port of `address` (IPv4, numeric: loopback, or the interface that the ranks'
  // hosts reach). Errors: it is not an address of this host.
  static absl::StatusOr<std::unique_ptr<HeartbeatServer>> Listen(const std::string& address,
                                                                 RunSecret secret);
  ~HeartbeatServer();
  HeartbeatServer(const HeartbeatServer&) = delete;
  HeartbeatServer& operator=(const HeartbeatServer&) = delete;

  // From now on ranks [0, world_size) of this attempt are welcome; connections of others are
  // closed.
  void Expect(int attempt, int world_size);
  // For poll(2): readable when Collect has something to do.
  int fd() const { return epoll_; }
  // Accepts, reads and closes what is ready, without waiting. Also call it now and then when fd()
  // is not readable: it closes peers that keep silent.
  std::vector<RankEvent> Collect();
  // Asks all ranks that are connected to write down what they are doing (Pulse::SetEvidence).
  void AskForEvidence();
  // Tells the ranks that their attempt is over: each ends within two beats. Their ends are still
  // seen.
  void Dismiss();
  // Closes the connection of a rank that cannot be reached any more.
  void Drop(int rank);
  // "127.0.0.1:40123"
  const std::string& address() const { return address_; }
  const RunSecret& secret() const { return secret_; }
  bool Connected(int rank) const { return by_rank_.contains(rank); }
  // The last frame of each rank whose connection is open.
  std::vector<Frame> Connected() const;
  int64_t refused() const { return refused_; }  // peers that were not who they should be

 private:
  struct Connection {
    std::string key;
    std::array<char, kFrameBytes> buffer;
    size_t used = 0;
    int64_t accepted_ns = 0;
    int rank = -1;  // not known before the first frame
    uint64_t next_sequence = 0;
    Frame last;
    bool said_goodbye = false;
  };
  HeartbeatServer(int listener, int epoll, std::string address, RunSecret secret)
      : listener_(listener),
        epoll_(epoll),
        address_(std::move(address)),
        secret_(std::move(secret)) {}
  void Accept();
  void Read(int fd, std::vector<RankEvent>* events);
  bool Take(int fd, Connection* connection, std::vector<RankEvent>* events);
  void Close(int fd, bool refused, std::vector<RankEvent>* events);

  const int listener_, epoll_;
  const std::string address_;
  const RunSecret secret_;
  int attempt_ = -1, world_size_ = 0;
  std::map<int, Connection> connections_;  // by file descriptor
  std::map<int, int> by_rank_;             // rank to file descriptor
  int64_t refused_ = 0;
};

}  // namespace muster::runtime
