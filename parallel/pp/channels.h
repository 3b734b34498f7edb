#pragma once
// The channels of one rank's schedule, as groups, streams and buffers. Each channel between two
// ranks is a process group of the two and a stream of its own at either end, so that no message
// waits behind one that goes another way: there is no order among channels to get wrong.
//
// A channel has `buffers` buffers at each end and uses them in turn. The reader's stream receives
// the next message as soon as its buffer has been read, ahead of the action that wants it; the
// writer's stream sends a message as soon as it is written. The compute stream waits for a message
// that is not there (booked as the bubble), or for a buffer that has not left (exposed_pp).
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "kernels/device/stream.h"
#include "kernels/tensor/arena.h"
#include "parallel/comm/rendezvous.h"
#include "parallel/mesh/mesh.h"
#include "parallel/pp/message_plan.h"

namespace muster::parallel {

// How a message changes hands.
enum class Handover {
  // Receives are posted as early as there are buffers, and the host waits for nothing.
  kAhead,
  // Each is received when its reader wants it, and both hosts wait until it is there. Only lists
  // that run OneAtATime (parallel/pp/schedule.h) end this way.
  kMeeting,
};

class Channels {
 public:
  // Makes and warms the groups; all ranks of the world call it, before the model takes memory.
  // `plans` and `buffers` are those of ScheduleFacts.
  static absl::StatusOr<std::unique_ptr<Channels>> Create(std::vector<ChannelPlan> plans,
                                                          const std::vector<int>& buffers,
                                                          World& world, const Mesh& mesh);
  ~Channels();  // waits for its streams before their memory goes
  // The buffers, for messages of this shape: the residual stream between two stages.
  void PlanMemory(kernels::ArenaPlan& plan, kernels::Shape shape, kernels::DType dtype);

  // Starts a run in which channel c carries plans[c].messages: those that Create was given, or of
  // another list over the same stages. Posts the first receives, if they go ahead.
  absl::Status Begin(const std::vector<ChannelPlan>& plans, Handover handover);
  // A message, once `compute` has come here and it has arrived; valid until it is Read.
  absl::StatusOr<kernels::TensorView> Await(MessageRef message, kernels::StreamView compute);
  // The work that reads the message is enqueued: its buffer goes to the next one.
  absl::Status Read(MessageRef message, kernels::StreamView compute);
  // A free buffer for a message to be written into, and its dispatch once that work is enqueued.
  kernels::TensorView Claim(MessageRef message, kernels::StreamView compute);
  absl::Status Written(MessageRef message, kernels::StreamView compute);

  // This rank's streams, named after their channels.
  std::vector<std::pair<std::string, kernels::StreamView>> streams() const;
  // The first error of any channel's stream so far, without waiting.
  absl::Status status() const;

 private:
  struct Buffer {
    kernels::TensorView tensor;
    kernels::Event filled, emptied;  // filled: written or arrived; emptied: sent or read
  };
  struct Channel {
    ChannelPlan plan;
    std::unique_ptr<ProcessGroup> group;      // null where another rank's, or local
    std::unique_ptr<kernels::Stream> stream;  // likewise
    std::vector<Buffer> buffers;              // none where other ranks'
    int peer = 0;                             // rank of the other end in the group
    // Of the run: messages in all, received or posted, and which were read out of turn.
    int num_messages = 0, posted = 0;
    std::vector<bool> read;
  };
  Channels() = default;
  absl::Status Open(Channel& channel, int num_buffers, int rank, World& world, const Mesh& mesh);
  absl::Status PostAhead(Channel& channel);
  absl::Status PostNext(Channel& channel);
  Channel& Of(MessageRef message) { return channels_[static_cast<size_t>(message.channel)]; }
  static Buffer& BufferOf(Channel& channel, int message) {
    return channel.buffers[static_cast<size_t>(message) % channel.buffers.size()];
  }
  int rank_ = 0;  // of the pipeline
  Handover handover_ = Handover::kAhead;
  std::vector<Channel> channels_;
};

}  // namespace muster::parallel
