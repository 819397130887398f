# Sets MEDAD_WITH_CUDA, MEDAD_CUDA_ARCHS_CMAKE, MEDAD_CUDA_ARCHS_BUILT and, without CUDA,
# MEDAD_CUDA_REASON. CMake's own CUDA language: torch's would look for torch's CUDA version.

set(MEDAD_WITH_CUDA OFF)
set(MEDAD_CUDA_REASON "")
set(MEDAD_CUDA_ARCHS_BUILT "")
string(TOLOWER "${MEDAD_CUDA}" MEDAD_CUDA)
if(NOT MEDAD_CUDA MATCHES "^(auto|on|off)$")
  message(FATAL_ERROR "MEDAD_CUDA must be auto, on or off, got '${MEDAD_CUDA}'")
endif()

if(MEDAD_CUDA STREQUAL "off")
  set(MEDAD_CUDA_REASON "built with MEDAD_CUDA=off")
  return()
endif()

include(CheckLanguage)
check_language(CUDA)
if(NOT CMAKE_CUDA_COMPILER)
  if(MEDAD_CUDA STREQUAL "on")
    message(FATAL_ERROR
      "MEDAD_CUDA=on, but no CUDA compiler (nvcc) was found. Install the CUDA toolkit (12.4 or newer, "
      "https://developer.nvidia.com/cuda-downloads) and put nvcc on PATH or set CUDACXX, "
      "or build without CUDA kernels: MEDAD_CUDA=off.")
  endif()
  set(MEDAD_CUDA_REASON "no CUDA compiler (nvcc) was found when medad_fast was built")
  message(STATUS "CUDA kernels: none (${MEDAD_CUDA_REASON})")
  return()
endif()

if(NOT MEDAD_CUDA_ARCHS)
  # The GPU that is present, else the two data-centre generations in use; PTX of the newest for the rest.
  execute_process(COMMAND nvidia-smi --query-gpu=compute_cap --format=csv,noheader
                  OUTPUT_VARIABLE caps ERROR_QUIET RESULT_VARIABLE status)
  if(status EQUAL 0 AND caps MATCHES "[0-9]+\\.[0-9]+")
    string(REGEX MATCHALL "[0-9]+\\.[0-9]+" caps "${caps}")
    list(REMOVE_DUPLICATES caps)
    string(REPLACE "." "" MEDAD_CUDA_ARCHS "${caps}")
  else()
    set(MEDAD_CUDA_ARCHS 80 90)
  endif()
endif()
list(SORT MEDAD_CUDA_ARCHS COMPARE NATURAL)
set(MEDAD_CUDA_ARCHS_CMAKE)
foreach(arch ${MEDAD_CUDA_ARCHS})
  list(APPEND MEDAD_CUDA_ARCHS_CMAKE ${arch}-real)
endforeach()
list(GET MEDAD_CUDA_ARCHS -1 newest)
list(APPEND MEDAD_CUDA_ARCHS_CMAKE ${newest}-virtual)
set(CMAKE_CUDA_ARCHITECTURES ${MEDAD_CUDA_ARCHS_CMAKE})
enable_language(CUDA)
set(CMAKE_CUDA_STANDARD 17)
set(CMAKE_CUDA_STANDARD_REQUIRED ON)
set(MEDAD_WITH_CUDA ON)
list(JOIN MEDAD_CUDA_ARCHS " " MEDAD_CUDA_ARCHS_BUILT)
message(STATUS "CUDA kernels: ${MEDAD_CUDA_ARCHS_BUILT}, and PTX of ${newest}")
