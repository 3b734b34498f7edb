# One GoogleTest binary per folder: tests/<folder>/*_test.cc -> muster_<folder>_test. Files named
# *_mpi_test.cc go into muster_<folder>_mpi_test, which ctest runs under mpirun with 1, 2, 3 and 4
# ranks; every rank runs every test.
find_package(GTest REQUIRED)
set(MUSTER_MPIRUN ${CMAKE_COMMAND} -E env OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1
    mpirun --oversubscribe --bind-to none --mca mpi_yield_when_idle 1)

# What the sanitizers' presets multiply a test's time with, at most.
if(MUSTER_SANITIZE MATCHES "thread")
  set(MUSTER_TEST_SLOWNESS 10)
elseif(MUSTER_SANITIZE)
  set(MUSTER_TEST_SLOWNESS 5)
else()
  set(MUSTER_TEST_SLOWNESS 1)
endif()
# Tests that keep `processes` cores busy, and their limit in seconds. ctest gives a test as many of the
# --parallel places, at most all: with two, those of several processes run alone.
function(muster_test_needs processes seconds)  # NAMES...
  math(EXPR timeout "${seconds} * ${MUSTER_TEST_SLOWNESS}")
  set_tests_properties(
    ${ARGN} PROPERTIES TIMEOUT ${timeout} PROCESSORS ${processes}
    ENVIRONMENT "OMP_NUM_THREADS=1;MUSTER_TEST_SLOWNESS=${MUSTER_TEST_SLOWNESS}")
endfunction()

# Tests are compiled for a quick build, not for speed: what they run is in the libraries.
add_compile_options($<$<AND:$<COMPILE_LANGUAGE:CXX>,$<CONFIG:Release>>:-O1>)

foreach(folder kernels parallel models runtime launch)
  file(GLOB tests CONFIGURE_DEPENDS ${CMAKE_SOURCE_DIR}/tests/${folder}/*_test.cc)
  file(GLOB support CONFIGURE_DEPENDS ${CMAKE_SOURCE_DIR}/tests/support/${folder}/*.cc)
  set(mpi_tests ${tests})
  list(FILTER mpi_tests INCLUDE REGEX "_mpi_test\\.cc$")
  list(FILTER tests EXCLUDE REGEX "_mpi_test\\.cc$")
  if(tests)
    add_executable(muster_${folder}_test ${tests} ${support})
    target_link_libraries(muster_${folder}_test muster_${folder} GTest::gtest GTest::gtest_main)
    muster_precompile(muster_${folder}_test <gtest/gtest.h>)
    target_compile_definitions(muster_${folder}_test PRIVATE MUSTER_SOURCE_DIR="${CMAKE_SOURCE_DIR}"
                               MUSTER_BINARY_DIR="${CMAKE_BINARY_DIR}")
    add_test(NAME ${folder} COMMAND muster_${folder}_test)
    muster_test_needs(1 600 ${folder})
  endif()
  if(mpi_tests)
    add_executable(muster_${folder}_mpi_test ${mpi_tests} ${support} tests/support/mpi_main.cc)
    target_link_libraries(muster_${folder}_mpi_test muster_${folder} GTest::gtest MPI::MPI_CXX)
    muster_precompile(muster_${folder}_mpi_test <gtest/gtest.h>)
    target_compile_definitions(muster_${folder}_mpi_test PRIVATE
                               MUSTER_SOURCE_DIR="${CMAKE_SOURCE_DIR}"
                               MUSTER_BINARY_DIR="${CMAKE_BINARY_DIR}")
    foreach(ranks 1 2 3 4)
      add_test(NAME ${folder}_mpi_${ranks}
               COMMAND ${MUSTER_MPIRUN} -np ${ranks} $<TARGET_FILE:muster_${folder}_mpi_test>)
      math(EXPR processes "${ranks} + 1")  # and mpirun, so that one rank has a place beside
      muster_test_needs(${processes} 300 ${folder}_mpi_${ranks})
    endforeach()
  endif()
endforeach()

# Layouts that need more ranks than the suites above have.
add_test(NAME runtime_mpi_8 COMMAND ${MUSTER_MPIRUN} -np 8 $<TARGET_FILE:muster_runtime_mpi_test>
         --gtest_filter=*OnEightRanks*)
muster_test_needs(8 300 runtime_mpi_8)

# The parity matrix: each number of ranks takes the layouts of its size. And layouts drawn at random.
add_executable(muster_parity_test tests/parity/parity_matrix_mpi_test.cc
               tests/parity/random_layouts_mpi_test.cc tests/parity/cuda_layouts_mpi_test.cc
               tests/parity/layouts.cc tests/parity/train_layout.cc
               tests/support/runtime/training_run.cc tests/support/runtime/parity_errors.cc
               tests/support/mpi_main.cc)
target_link_libraries(muster_parity_test muster_runtime GTest::gtest MPI::MPI_CXX)
muster_precompile(muster_parity_test <gtest/gtest.h>)
target_compile_definitions(muster_parity_test PRIVATE MUSTER_SOURCE_DIR="${CMAKE_SOURCE_DIR}"
                           MUSTER_BINARY_DIR="${CMAKE_BINARY_DIR}")
foreach(ranks 2 4 8)
  add_test(NAME parity_matrix_${ranks}
           COMMAND ${MUSTER_MPIRUN} -np ${ranks} $<TARGET_FILE:muster_parity_test>
                   --gtest_filter=*ParityMatrix*)
  add_test(NAME random_layouts_${ranks}
           COMMAND ${MUSTER_MPIRUN} -np ${ranks} $<TARGET_FILE:muster_parity_test>
                   --gtest_filter=RandomLayouts.*)
  muster_test_needs(${ranks} 600 parity_matrix_${ranks} random_layouts_${ranks})
endforeach()

# What wants a GPU: `tests/run --gpu`, on a host whose ranks each find one of their own. The filters
# stand here once, for the test that each selects something, too.
set(gpu_operators *Cuda*)
set(gpu_groups Nccl*:CopyEngines*:PeerExchange*:NewGroup*)
set(gpu_jobs Cuda*)
set(gpu_layouts *Cuda*)
add_test(NAME gpu_filters COMMAND python3 ${CMAKE_SOURCE_DIR}/tests/gpu/filters_test
         $<TARGET_FILE:muster_kernels_test> ${gpu_operators}
         $<TARGET_FILE:muster_parallel_mpi_test> ${gpu_groups}
         $<TARGET_FILE:muster_runtime_mpi_test> ${gpu_jobs}
         $<TARGET_FILE:muster_parity_test> ${gpu_layouts})
muster_test_needs(1 120 gpu_filters)
if(MUSTER_WITH_CUDA)
  add_library(muster_lying_nccl MODULE tests/gpu/lying_nccl.cc)
  add_test(NAME cuda_operators COMMAND muster_kernels_test --gtest_filter=${gpu_operators})
  add_test(NAME cuda_training COMMAND python3 ${CMAKE_SOURCE_DIR}/tests/cuda_training_test
                                      ${CMAKE_BINARY_DIR}/muster WORKING_DIRECTORY ${CMAKE_SOURCE_DIR})
  add_test(NAME gpu_ratios COMMAND python3 ${CMAKE_SOURCE_DIR}/tests/gpu/ratios_test
                                   ${CMAKE_BINARY_DIR})
  add_test(NAME nccl_version COMMAND python3 ${CMAKE_SOURCE_DIR}/tests/gpu/nccl_version_test
           ${CMAKE_BINARY_DIR}/muster $<TARGET_FILE:muster_lying_nccl>
           WORKING_DIRECTORY ${CMAKE_SOURCE_DIR})
  add_test(NAME gpu_kill_drill COMMAND python3 ${CMAKE_SOURCE_DIR}/tests/drills/gpu_kill_drill
                                       ${CMAKE_BINARY_DIR}/muster WORKING_DIRECTORY ${CMAKE_SOURCE_DIR})
  set(gpu_tests cuda_operators cuda_training gpu_ratios nccl_version gpu_kill_drill)
  execute_process(COMMAND nvidia-smi -L OUTPUT_VARIABLE gpu_list ERROR_QUIET
                  RESULT_VARIABLE no_gpu_list)
  string(REGEX MATCHALL "GPU [0-9]+:" gpu_names "${gpu_list}")
  list(LENGTH gpu_names num_gpus)
  foreach(ranks RANGE 1 ${num_gpus})
    if(ranks GREATER 0 AND ranks LESS_EQUAL num_gpus)
      set(mpirun ${MUSTER_MPIRUN} -np ${ranks})
      add_test(NAME nccl_${ranks}
               COMMAND ${mpirun} $<TARGET_FILE:muster_parallel_mpi_test> --gtest_filter=${gpu_groups})
      list(APPEND gpu_tests nccl_${ranks})
      if(ranks EQUAL 1 OR ranks EQUAL 2 OR ranks EQUAL 4)
        add_test(NAME cuda_jobs_${ranks}
                 COMMAND ${mpirun} $<TARGET_FILE:muster_runtime_mpi_test> --gtest_filter=${gpu_jobs})
        add_test(NAME cuda_layouts_${ranks}
                 COMMAND ${mpirun} $<TARGET_FILE:muster_parity_test> --gtest_filter=${gpu_layouts})
        list(APPEND gpu_tests cuda_jobs_${ranks} cuda_layouts_${ranks})
      endif()
    endif()
  endforeach()
  set_tests_properties(${gpu_tests} PROPERTIES LABELS gpu TIMEOUT 900 RUN_SERIAL ON)
endif()

# Measurements, not tests: tests/bench/<name>.cc -> <name>.
if(MUSTER_WITH_CUDA)
  file(GLOB benches CONFIGURE_DEPENDS ${CMAKE_SOURCE_DIR}/tests/bench/*_bench.cc)
  foreach(bench IN LISTS benches)
    get_filename_component(name ${bench} NAME_WE)
    add_executable(${name} ${bench})
    target_link_libraries(${name} muster_kernels)
  endforeach()
endif()

include(tests/fuzz/fuzz.cmake)

file(GLOB scripts CONFIGURE_DEPENDS ${CMAKE_SOURCE_DIR}/tests/end_to_end/*_test.sh)
foreach(script IN LISTS scripts)
  get_filename_component(name ${script} NAME_WE)
  add_test(NAME ${name} COMMAND bash ${script} ${CMAKE_BINARY_DIR}/muster
           WORKING_DIRECTORY ${CMAKE_SOURCE_DIR})
  muster_test_needs(8 600 ${name})
  set_tests_properties(${name} PROPERTIES SKIP_RETURN_CODE 77)
endforeach()
muster_test_needs(1 60 fetch_headers_test)

# Short forms of the drills; what the long ones have shown is in docs/benchmarks/faults.md.
add_test(NAME kill_drill
         COMMAND python3 ${CMAKE_SOURCE_DIR}/tests/drills/kill_drill ${CMAKE_BINARY_DIR}/muster
                 --set mesh.ep=2 --kills 3 --in-save 1 --steps 48
         WORKING_DIRECTORY ${CMAKE_SOURCE_DIR})
add_test(NAME memory_drill
         COMMAND python3 ${CMAKE_SOURCE_DIR}/tests/drills/kill_drill ${CMAKE_BINARY_DIR}/muster
                 --set mesh.ep=2 --ranks 4 --kills 3 --in-save 0 --steps 42 --every 12 --memory 1
         WORKING_DIRECTORY ${CMAKE_SOURCE_DIR})
muster_test_needs(8 600 kill_drill memory_drill)

if(EXISTS ${CMAKE_SOURCE_DIR}/tests/layering_test)
  add_test(NAME layering COMMAND python3 ${CMAKE_SOURCE_DIR}/tests/layering_test ${CMAKE_SOURCE_DIR})
  add_test(NAME layering_self_test
           COMMAND python3 ${CMAKE_SOURCE_DIR}/tests/layering_test --self-test)
  add_test(NAME gpu_ratios_self_test
           COMMAND python3 ${CMAKE_SOURCE_DIR}/tests/gpu/ratios_test --self-test)
  add_test(NAME docs COMMAND python3 ${CMAKE_SOURCE_DIR}/tests/docs_test ${CMAKE_SOURCE_DIR})
endif()
