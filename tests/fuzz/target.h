#pragma once
// A fuzz target takes any bytes as the input of one parser and must neither crash nor read out of
// bounds nor take unbounded memory. One list for both users: muster_fuzz_replay runs every target
// over tests/fuzz/corpus/<name> (in ctest); muster_fuzz_<name> is a libFuzzer binary (preset fuzz).
#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

namespace muster::fuzz {

// Each returns what LLVMFuzzerTestOneInput has to: 0.
int Safetensors(std::string_view bytes);
int Manifest(std::string_view bytes);
int Ledger(std::string_view bytes);
int TokenFile(std::string_view bytes);
int Megatron(std::string_view bytes);
int Llmc(std::string_view bytes);
int Config(std::string_view bytes);
int CollectiveRecord(std::string_view bytes);
int Schedule(std::string_view bytes);
int Hosts(std::string_view bytes);
int Heartbeat(std::string_view bytes);
int MatmulFile(std::string_view bytes);

struct Target {
  const char* name;  // of the corpus and the binary
  int (*run)(std::string_view);
};
constexpr Target kTargets[] = {
    {"safetensors", Safetensors}, {"manifest", Manifest},
    {"ledger", Ledger},           {"token_file", TokenFile},
    {"megatron", Megatron},       {"llmc", Llmc},
    {"config", Config},           {"collective_record", CollectiveRecord},
    {"schedule", Schedule},       {"hosts", Hosts},
    {"heartbeat", Heartbeat},     {"matmul_file", MatmulFile},
};

// A file of this process in memory (/dev/shm) that holds `bytes`, for parsers that want a path.
// The same name is written anew each time.
std::string FileOf(const std::string& name, std::string_view bytes);

}  // namespace muster::fuzz
