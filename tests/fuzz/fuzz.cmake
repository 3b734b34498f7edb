# Fuzz targets of the parsers (tests/fuzz/target.h). Every build replays the kept corpora in ctest;
# with MUSTER_FUZZ (preset fuzz: clang, libFuzzer, ASan, UBSan) there is a binary per target.
file(GLOB fuzz_targets CONFIGURE_DEPENDS ${CMAKE_SOURCE_DIR}/tests/fuzz/*_target*.cc)
list(APPEND fuzz_targets ${CMAKE_SOURCE_DIR}/tests/fuzz/scratch_file.cc)

if(NOT MUSTER_FUZZ)
  add_executable(muster_fuzz_replay ${fuzz_targets} tests/fuzz/replay_main.cc)
  target_link_libraries(muster_fuzz_replay muster_launch OpenSSL::Crypto)
  add_test(NAME fuzz_replay COMMAND muster_fuzz_replay ${CMAKE_SOURCE_DIR}/tests/fuzz/corpus)
  return()
endif()

# What the parsers need, and no more: instrumented code is slow to compile.
file(GLOB parser_sources CONFIGURE_DEPENDS
     ${CMAKE_SOURCE_DIR}/kernels/base/*.cc ${CMAKE_SOURCE_DIR}/kernels/device/*.cc ${CMAKE_SOURCE_DIR}/kernels/tensor/*.cc ${CMAKE_SOURCE_DIR}/kernels/ops/matmul_rate.cc
     ${CMAKE_SOURCE_DIR}/parallel/mesh/*.cc ${CMAKE_SOURCE_DIR}/parallel/comm/collectives.cc ${CMAKE_SOURCE_DIR}/parallel/comm/collective_*.cc
     ${CMAKE_SOURCE_DIR}/parallel/comm/hang_report*.cc ${CMAKE_SOURCE_DIR}/parallel/comm/side_stream.cc ${CMAKE_SOURCE_DIR}/models/config*.cc
     ${CMAKE_SOURCE_DIR}/models/stage_balance.cc ${CMAKE_SOURCE_DIR}/models/cost.cc ${CMAKE_SOURCE_DIR}/parallel/pp/schedule*.cc ${CMAKE_SOURCE_DIR}/parallel/pp/message_plan.cc
     ${CMAKE_SOURCE_DIR}/runtime/checkpoint/*.cc ${CMAKE_SOURCE_DIR}/runtime/goodput/*.cc ${CMAKE_SOURCE_DIR}/runtime/input/*.cc ${CMAKE_SOURCE_DIR}/runtime/job/*.cc)
list(FILTER parser_sources EXCLUDE REGEX
     "piece_model|tokenizer|prepare|inspect|text_blocks|batch_loader|dataset_summary|matmul_rate")
list(FILTER parser_sources EXCLUDE REGEX
     "checkpointer|_store|memory_|weights|restore|retention|reader.cc$|writer|commit|agreement|run_directory|peak")
list(APPEND parser_sources runtime/goodput/ledger_reader.cc runtime/job/peak.cc
     runtime/job/text_reader.cc kernels/ops/attention_support.cc kernels/ops/matmul_rate.cc
     runtime/fault/heartbeat_frame.cc runtime/train/matmul_file.cc launch/hosts.cc)
foreach(proto models/model runtime/job/job)
  list(APPEND parser_sources ${CMAKE_BINARY_DIR}/generated/${proto}.pb.cc)
endforeach()
add_library(muster_parsers STATIC EXCLUDE_FROM_ALL ${parser_sources} ${fuzz_targets}
            tests/fuzz/not_called.cc)
target_include_directories(muster_parsers PUBLIC ${CMAKE_SOURCE_DIR} ${CMAKE_BINARY_DIR}/generated
                           ${XXHASH_INCLUDE_DIR})
target_link_libraries(muster_parsers PUBLIC absl::status absl::statusor absl::strings
                      Threads::Threads protobuf::libprotobuf nlohmann_json::nlohmann_json
                      OpenSSL::Crypto ${OpenMP_CXX_LIBRARIES})
foreach(target Safetensors Manifest Ledger TokenFile Megatron Llmc Config CollectiveRecord Schedule
        Hosts Heartbeat MatmulFile)
  string(REGEX REPLACE "([a-z])([A-Z])" "\\1_\\2" name ${target})
  string(TOLOWER ${name} name)
  add_executable(muster_fuzz_${name} EXCLUDE_FROM_ALL tests/fuzz/libfuzzer_entry.cc)
  target_compile_definitions(muster_fuzz_${name} PRIVATE MUSTER_FUZZ_TARGET=${target})
  target_link_libraries(muster_fuzz_${name} muster_parsers)
  target_link_options(muster_fuzz_${name} PRIVATE -fsanitize=fuzzer)
  list(APPEND fuzz_binaries muster_fuzz_${name})
endforeach()
add_custom_target(muster_fuzz DEPENDS ${fuzz_binaries})
