# Finds cuDNN and the headers of cudnn-frontend (a Python package that carries C++ headers), and sets
# MUSTER_WITH_CUDNN. launch/fetch_cudnn_frontend puts the headers where this looks first.
find_path(CUDNN_INCLUDE_DIR cudnn.h HINTS ${CUDAToolkit_INCLUDE_DIRS})
find_library(CUDNN_LIBRARY cudnn HINTS ${CUDAToolkit_LIBRARY_DIR})
find_path(CUDNN_FRONTEND_INCLUDE_DIR cudnn_frontend.h
          HINTS ${CMAKE_SOURCE_DIR}/build/cudnn_frontend/include)
# What was fetched before the script's version changed would compile, too.
if(NOT MUSTER_CUDNN STREQUAL "OFF"
   AND CUDNN_FRONTEND_INCLUDE_DIR STREQUAL "${CMAKE_SOURCE_DIR}/build/cudnn_frontend/include")
  file(STRINGS ${CMAKE_SOURCE_DIR}/launch/fetch_cudnn_frontend wanted REGEX "^version=")
  string(REPLACE "version=" "" wanted "${wanted}")
  file(STRINGS ${CUDNN_FRONTEND_INCLUDE_DIR}/cudnn_frontend_version.h found
       REGEX "CUDNN_FRONTEND_(MAJOR|MINOR|PATCH)_VERSION [0-9]+$")
  list(TRANSFORM found REPLACE "^.* " "")
  list(JOIN found "." found)
  if(NOT found VERSION_EQUAL wanted)
    message(FATAL_ERROR "build/cudnn_frontend has the headers of cudnn-frontend ${found}, wanted "
                        "${wanted}: run launch/fetch_cudnn_frontend")
  endif()
endif()
set(MUSTER_WITH_CUDNN OFF)
if(NOT MUSTER_CUDNN STREQUAL "OFF")
  if(CUDNN_INCLUDE_DIR AND CUDNN_LIBRARY AND CUDNN_FRONTEND_INCLUDE_DIR)
    set(MUSTER_WITH_CUDNN ON)
    message(STATUS "attention by cuDNN: on, ${CUDNN_LIBRARY}")
  else()
    set(advice "attention by cuDNN needs cudnn.h (${CUDNN_INCLUDE_DIR}), libcudnn "
      "(${CUDNN_LIBRARY}) and cudnn_frontend.h (${CUDNN_FRONTEND_INCLUDE_DIR}); "
      "launch/fetch_cudnn_frontend fetches the last")
    list(JOIN advice "" advice)
    if(MUSTER_CUDNN STREQUAL "ON")
      message(FATAL_ERROR "${advice}")
    endif()
    message(WARNING "${advice}. Without it bf16 jobs on CUDA want precision.attention_kernel=DIRECT, some hundred times slower.")
  endif()
endif()
