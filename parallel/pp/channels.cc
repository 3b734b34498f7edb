#include "parallel/pp/channels.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "kernels/base/error.h"
#include "kernels/base/log.h"
#include "kernels/device/span.h"
#include "kernels/tensor/tensor.h"
#include "parallel/comm/collectives.h"

namespace muster::parallel {

using kernels::Event;
using kernels::Span;
using kernels::Stream;
using kernels::StreamMode;

absl::StatusOr<std::unique_ptr<Channels>> Channels::Create(std::vector<ChannelPlan> plans,
                                                           const std::vector<int>& buffers,
                                                           World& world, const Mesh& mesh) {
  std::unique_ptr<Channels> channels(new Channels());
  channels->rank_ = mesh.Group(Axis::kPipeline).rank();
  channels->channels_.resize(plans.size());
  // In one order on all ranks, so that the two ends of each group meet.
  for (size_t c = 0; c < plans.size(); ++c) {
    Channel& channel = channels->channels_[c];
    channel.plan = std::move(plans[c]);
    const bool mine =
        channel.plan.source == channels->rank_ || channel.plan.destination == channels->rank_;
    if (!mine) continue;
    RETURN_IF_ERROR(kernels::Annotate(
        channels->Open(channel, buffers[c], channels->rank_, world, mesh), channel.plan.Name()));
  }
  return channels;
}

absl::Status Channels::Open(Channel& channel, int num_buffers, int rank, World& world,
                            const Mesh& mesh) {
  for (int i = 0; i < num_buffers; ++i) {
    ASSIGN_OR_RETURN(Event filled, Event::Create(mesh.device()));
    ASSIGN_OR_RETURN(Event emptied, Event::Create(mesh.device()));
    channel.buffers.push_back({{}, std::move(filled), std::move(emptied)});
  }
  const ChannelPlan& plan = channel.plan;
  if (plan.local()) return absl::OkStatus();
  const std::vector<int>& pipeline = mesh.Group(Axis::kPipeline).world_ranks();
  const int source = pipeline[static_cast<size_t>(plan.source)];
  const int destination = pipeline[static_cast<size_t>(plan.destination)];
  const int other = rank == plan.source ? destination : source;
  channel.peer = other < world.rank() ? 0 : 1;
  ASSIGN_OR_RETURN(channel.group,
                   world.NewGroup("pp " + plan.Name(),
                                  {std::min(source, destination), std::max(source, destination)},
                                  kExposedPp, mesh.device()));
  ASSIGN_OR_RETURN(Stream stream, Stream::Create(mesh.device(), StreamMode::kQueue, plan.Name(),
                                                 kernels::StreamPriority::kHigh));
  channel.stream = std::make_unique<Stream>(std::move(stream));
  // The first message opens the connection, for which NCCL makes the host wait for the other end.
  // It belongs to the start: in a step both ends post their receives first, and would wait for
  // good.
  ASSIGN_OR_RETURN(const kernels::Tensor first,
                   kernels::Tensor::Allocate(kernels::DType::kInt32, {1}, mesh.device()));
  RETURN_IF_ERROR(
      rank == plan.source
          ? Send(first.view(), channel.peer, *channel.group, channel.stream->view())
          : Receive(first.view(), channel.peer, *channel.group, channel.stream->view()));
  return channel.stream->view().Synchronize();
}

std::vector<std::pair<std::string, StreamView>> Channels::streams() const {
  std::vector<std::pair<std::string, StreamView>> streams;
  for (const Channel& channel : channels_) {
    if (channel.stream != nullptr)
      streams.emplace_back(channel.plan.Name(), channel.stream->view());
  }
  return streams;
}

Channels::~Channels() {
  for (const Channel& channel : channels_) {
    if (channel.stream == nullptr) continue;
    const absl::Status status = channel.stream->view().Synchronize();
    if (!status.ok()) kernels::Log(kernels::Severity::kError, std::string(status.message()));
  }
}

void Channels::PlanMemory(kernels::ArenaPlan& plan, kernels::Shape shape, kernels::DType dtype) {
  for (Channel& channel : channels_) {
    for (size_t i = 0; i < channel.buffers.size(); ++i) {
      plan.Add(&channel.buffers[i].tensor, absl::StrCat("pp ", channel.plan.Name(), ", buffer ", i),
               dtype, shape, kernels::Lifetime::kPersistent);
    }
  }
}

absl::Status Channels::Begin(const std::vector<ChannelPlan>& plans, Handover handover) {
  MUSTER_CHECK_EQ(plans.size(), channels_.size());
  handover_ = handover;
  for (size_t c = 0; c < plans.size(); ++c) {
    Channel& channel = channels_[c];
    if (channel.buffers.empty()) continue;
    channel.num_messages = static_cast<int>(plans[c].messages.size());
    channel.posted = 0;
    channel.read.assign(plans[c].messages.size(), false);
    RETURN_IF_ERROR(PostAhead(channel));
  }
  return absl::OkStatus();
}

// Receives as far as there are buffers that have been read.
absl::Status Channels::PostAhead(Channel& channel) {
  if (channel.stream == nullptr || channel.plan.destination != rank_) return absl::OkStatus();
  if (handover_ == Handover::kMeeting) return absl::OkStatus();
  const int room = static_cast<int>(channel.buffers.size());
  while (channel.posted < channel.num_messages &&
         (channel.posted < room || channel.read[static_cast<size_t>(channel.posted - room)])) {
    RETURN_IF_ERROR(PostNext(channel));
  }
  return absl::OkStatus();
}

absl::Status Channels::PostNext(Channel& channel) {
  Buffer& buffer = BufferOf(channel, channel.posted++);
  const StreamView stream = channel.stream->view();
  stream.Wait(buffer.emptied.view());
  RETURN_IF_ERROR(Receive(buffer.tensor, channel.peer, *channel.group, stream));
  stream.Record(buffer.filled.view());
  return absl::OkStatus();
}

absl::StatusOr<kernels::TensorView> Channels::Await(MessageRef message, StreamView compute) {
  Channel& channel = Of(message);
  Buffer& buffer = BufferOf(channel, message.index);
  if (channel.stream == nullptr) return buffer.tensor;  // the list's order says that it is there
  if (handover_ == Handover::kMeeting) {
    RETURN_IF_ERROR(PostNext(channel));
    RETURN_IF_ERROR(channel.stream->view().Synchronize());
  }
  MUSTER_CHECK(message.index < channel.posted)
      << "message " << message.index << " of " << channel.plan.Name() << " of " << channel.posted
      << " posted";
  const Span span(compute, "wait for a stage", kBubble);
  compute.Wait(buffer.filled.view());
  return buffer.tensor;
}

absl::Status Channels::Read(MessageRef message, StreamView compute) {
  Channel& channel = Of(message);
  compute.Record(BufferOf(channel, message.index).emptied.view());
  channel.read[static_cast<size_t>(message.index)] = true;
  return PostAhead(channel);
}

kernels::TensorView Channels::Claim(MessageRef message, StreamView compute) {
  Channel& channel = Of(message);
  Buffer& buffer = BufferOf(channel, message.index);
  if (channel.stream != nullptr) {
    const Span span(compute, "wait for a send", kExposedPp);
    compute.Wait(buffer.emptied.view());
  }
  return buffer.tensor;
}

absl::Status Channels::Written(MessageRef message, StreamView compute) {
  Channel& channel = Of(message);
  if (channel.stream == nullptr) return absl::OkStatus();
  Buffer& buffer = BufferOf(channel, message.index);
  const StreamView stream = channel.stream->view();
  compute.Record(buffer.filled.view());
  stream.Wait(buffer.filled.view());
  RETURN_IF_ERROR(Send(buffer.tensor, channel.peer, *channel.group, stream));
  stream.Record(buffer.emptied.view());
  return handover_ == Handover::kMeeting ? stream.Synchronize() : absl::OkStatus();
}

absl::Status Channels::status() const {
  for (const Channel& channel : channels_) {
    if (channel.stream != nullptr) RETURN_IF_ERROR(channel.stream->view().status());
  }
  return absl::OkStatus();
}

}  // namespace muster::parallel
