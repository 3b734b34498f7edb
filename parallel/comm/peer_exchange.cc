#include "parallel/comm/peer_exchange.h"

#include <array>
#include <cstring>
#include <map>
#include <utility>

#include "kernels/base/error.h"
#include "kernels/base/hash.h"

namespace muster::parallel {
namespace {

using kernels::MemoryHandle;
using kernels::TensorView;

// What a rank tells the others first: all of it must agree, and then their lists are equally long.
struct Terms {
  uint64_t host = 0;
  int64_t staging_bytes = 0, num_targets = 0;
};
// Flags, staging memory, or a target of gathers.
struct Piece {
  MemoryHandle handle;
  int64_t bytes = 0;
};
struct OwnPiece {
  void* data;
  int64_t bytes;
};

template <typename T>
void Append(const T& value, std::string* text) {
  text->append(reinterpret_cast<const char*>(&value), sizeof(value));
}
template <typename T>
T ReadAt(const std::string& text, size_t offset) {
  T value;
  MUSTER_CHECK(offset + sizeof(value) <= text.size());
  std::memcpy(&value, text.data() + offset, sizeof(value));
  return value;
}

absl::StatusOr<std::string> Describe(const std::vector<OwnPiece>& pieces, kernels::Device device) {
  std::string text;
  for (const OwnPiece& own : pieces) {
    Piece piece{.bytes = own.bytes};
    if (own.bytes > 0) {
      ASSIGN_OR_RETURN(piece.handle, kernels::ExportMemory(own.data, device));
    }
    Append(piece, &text);
  }
  return text;
}

// Errors: what `theirs` says does not fit what this rank said.
absl::Status CheckTerms(const Terms& own, const Terms& theirs) {
  if (own.host != theirs.host) {
    return absl::FailedPreconditionError(
        "they are on two hosts, and copy engines reach GPUs of one host only; use "
        "communication.nccl.cta_policy: DEFAULT, or shard within hosts (zero.shard_ranks)");
  }
  if (own.staging_bytes == theirs.staging_bytes && own.num_targets == theirs.num_targets) {
    return absl::OkStatus();
  }
  const auto say = [](const Terms& terms) {
    return std::to_string(terms.staging_bytes) + " bytes of staging memory and " +
           std::to_string(terms.num_targets) + " targets of gathers";
  };
  return absl::FailedPreconditionError("the first planned " + say(own) + ", the second " +
                                       say(theirs));
}

// The pieces that another rank described, at their addresses here. Each allocation is mapped once.
absl::StatusOr<std::vector<char*>> MapPieces(const std::string& theirs,
                                             const std::vector<OwnPiece>& own,
                                             kernels::Device device,
                                             std::vector<kernels::PeerMemory>* mapped) {
  std::map<std::array<char, 64>, char*> allocations;
  std::vector<char*> places;
  for (size_t i = 0; i < own.size(); ++i) {
    const auto piece = ReadAt<Piece>(theirs, i * sizeof(Piece));
    if (piece.bytes != own[i].bytes) {
      return absl::FailedPreconditionError(
          "piece " + std::to_string(i) + " of their memory has " + std::to_string(own[i].bytes) +
          " bytes in the first and " + std::to_string(piece.bytes) + " in the second");
    }
    if (piece.bytes == 0) {
      places.push_back(nullptr);
      continue;
    }
    char*& base = allocations[piece.handle.allocation];
    if (base == nullptr) {
      ASSIGN_OR_RETURN(kernels::PeerMemory memory,
                       kernels::PeerMemory::Map({.allocation = piece.handle.allocation}, device));
      base = static_cast<char*>(memory.data());
      mapped->push_back(std::move(memory));
    }
    places.push_back(base + piece.handle.offset_bytes);
  }
  return places;
}

}  // namespace

absl::StatusOr<std::unique_ptr<PeerExchange>> PeerExchange::Create(Options options) {
  std::unique_ptr<PeerExchange> made(new PeerExchange());
  const int64_t flag_bytes = options.size * static_cast<int64_t>(sizeof(uint32_t));
  ASSIGN_OR_RETURN(made->flags_, kernels::DeviceBuffer::Allocate(options.device, flag_bytes));
  const TensorView& staging = options.memory.staging;
  std::vector<OwnPiece> own = {{made->flags_.data(), flag_bytes}, {staging.data, staging.bytes()}};
  CopyExchange::Options copies{
      .rank = options.rank, .staging_bytes = staging.bytes(), .device = options.device};
  for (const TensorView& target : options.memory.targets) {
    own.push_back({target.data, target.bytes()});
    copies.target_bytes.push_back(target.bytes());
  }
  const Terms terms{kernels::Hash64(options.host), staging.bytes(),
                    static_cast<int64_t>(options.memory.targets.size())};
  const auto annotate = [&](const absl::Status& status, int peer) {
    return kernels::Annotate(status, "copy engines of group " + options.group +
                                         " between its ranks " + std::to_string(options.rank) +
                                         " and " + std::to_string(peer));
  };
  std::string text;
  Append(terms, &text);
  ASSIGN_OR_RETURN(const std::vector<std::string> all_terms, options.gather(text));
  for (int peer = 0; peer < options.size; ++peer) {
    const auto theirs = ReadAt<Terms>(all_terms[static_cast<size_t>(peer)], 0);
    RETURN_IF_ERROR(annotate(CheckTerms(terms, theirs), peer));
  }
  ASSIGN_OR_RETURN(text, Describe(own, options.device));
  ASSIGN_OR_RETURN(const std::vector<std::string> all_pieces, options.gather(text));
  for (int peer = 0; peer < options.size; ++peer) {
    std::vector<char*> places;
    if (peer == options.rank) {
      for (const OwnPiece& piece : own) places.push_back(static_cast<char*>(piece.data));
    } else {
      auto mapped =
          MapPieces(all_pieces[static_cast<size_t>(peer)], own, options.device, &made->mapped_);
      RETURN_IF_ERROR(annotate(mapped.status(), peer));
      places = *std::move(mapped);
    }
    copies.ranks.push_back({.flags = reinterpret_cast<uint32_t*>(places[0]),
                            .staging = places[1],
                            .targets = {places.begin() + 2, places.end()}});
  }
  made->copies_ = std::make_unique<CopyExchange>(std::move(copies));
  return made;
}

}  // namespace muster::parallel
