# Finds cuDNN and the headers of cudnn-frontend (a Python package that carries C++ headers), and sets
# MUSTER_WITH_CUDNN. launch/fetch_cudnn_frontend puts the headers where this looks first.
find_path(CUDNN_INCLUDE_DIR cudnn.h HINTS ${CUDAToolkit_INCLUDE_DIRS})
find_library(CUDNN_LIBRARY cudnn HINTS ${CUDAToolkit_LIBRARY_DIR})
find_path(CUDNN_FRONTEND_INCLUDE_DIR cudnn_frontend.h
          HINTS ${CMAKE_SOURCE_DIR}/build/cudnn_frontend/include)
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
    message(WARNING "${advice}. Without it attention on CUDA is some hundred times slower.")
  endif()
endif()
