# TRIREME_CUDA decides what the folders named cuda/ are compiled to:
#   auto       on where nvcc is found, else off
#   on         nvcc; NCCL, cuBLASLt and cuDNN are loaded when they are first used, so that one program serves every machine
#   off        nothing: core/cuda_absent.cc says that CUDA isn't there
#   emulated   the host compiler, against tests/emulator: a CPU stand-in that tests run on
set(TRIREME_CUDA auto CACHE STRING "CUDA: auto, on, off or emulated")
set_property(CACHE TRIREME_CUDA PROPERTY STRINGS auto on off emulated)

include(CheckLanguage)
set(TRIREME_CUDA_KIND ${TRIREME_CUDA})
set(least_cuda 13.0)
# find_nvcc(PROBLEM): why there is no nvcc that this project can use; empty when there is one.
function(find_nvcc problem)
  set(${problem} "" PARENT_SCOPE)
  check_language(CUDA)
  if(NOT CMAKE_CUDA_COMPILER)
    set(${problem} "nvcc was not found: apt-get install cuda-toolkit (NVIDIA's repository), or put its bin folder on the PATH"
      PARENT_SCOPE)
    return()
  endif()
  execute_process(COMMAND ${CMAKE_CUDA_COMPILER} --version OUTPUT_VARIABLE text ERROR_QUIET)
  if(text MATCHES "release ([0-9]+\\.[0-9]+)" AND CMAKE_MATCH_1 VERSION_LESS least_cuda)
    set(${problem} "${CMAKE_CUDA_COMPILER} is of CUDA ${CMAKE_MATCH_1}, and ${least_cuda} or later is needed: apt-get install \
cuda-toolkit-13-0 (NVIDIA's repository), or put the bin folder of a later one first on the PATH" PARENT_SCOPE)
  endif()
endfunction()

if(TRIREME_CUDA STREQUAL "auto")
  find_nvcc(nvcc_problem)
  if(nvcc_problem)
    set(TRIREME_CUDA_KIND off)
    message(STATUS "${nvcc_problem}")
  else()
    set(TRIREME_CUDA_KIND on)
  endif()
elseif(NOT TRIREME_CUDA MATCHES "^(on|off|emulated)$")
  message(FATAL_ERROR "TRIREME_CUDA is '${TRIREME_CUDA}'; it takes auto, on, off or emulated")
endif()
message(STATUS "CUDA: ${TRIREME_CUDA_KIND}")

if(TRIREME_CUDA_KIND STREQUAL "on")
  find_nvcc(nvcc_problem)
  if(nvcc_problem)
    message(FATAL_ERROR "TRIREME_CUDA=on, but ${nvcc_problem}")
  endif()
  if(NOT CMAKE_CUDA_ARCHITECTURES)
    # A100, H100 and H200, B200, as far as this nvcc knows them.
    execute_process(COMMAND ${CMAKE_CUDA_COMPILER} --list-gpu-arch OUTPUT_VARIABLE known ERROR_QUIET)
    foreach(architecture 80 90 100)
      if(known MATCHES "compute_${architecture}[\r\n]" OR NOT known)
        list(APPEND architectures ${architecture})
      endif()
    endforeach()
    set(CMAKE_CUDA_ARCHITECTURES ${architectures} CACHE STRING "GPU architectures")
  endif()
  enable_language(CUDA)
  set(CMAKE_CUDA_STANDARD 20)
  if(CMAKE_VERSION VERSION_LESS 3.26)  # knows no C++20 of nvcc
    set(CMAKE_CUDA20_STANDARD_COMPILE_OPTION "-std=c++20")
    set(CMAKE_CUDA20_EXTENSION_COMPILE_OPTION "-std=c++20")
  endif()
  set(CMAKE_CUDA_STANDARD_REQUIRED ON)
  set(CMAKE_CUDA_RUNTIME_LIBRARY Static)
  # Among nvcc's own warnings: device code that calls a function of the host.
  add_compile_options("$<$<COMPILE_LANGUAGE:CUDA>:--Werror=all-warnings>")
  find_package(CUDAToolkit REQUIRED)
  # trireme_cuda_header(HEADER PACKAGE): stops with the package's name when HEADER isn't there.
  function(trireme_cuda_header header package)
    string(MAKE_C_IDENTIFIER ${header} id)
    find_path(TRIREME_${id} ${header} HINTS ${CUDAToolkit_INCLUDE_DIRS})
    if(NOT TRIREME_${id})
      message(FATAL_ERROR "${header} was not found: apt-get install ${package} (NVIDIA's repository)")
    endif()
  endfunction()
  trireme_cuda_header(nccl.h libnccl-dev)
  trireme_cuda_header(cublasLt.h libcublas-dev-13-0)
  trireme_cuda_header(nvtx3/nvToolsExt.h cuda-nvtx-13-0)
  # cuDNN's fused attention. Its C++ frontend is headers alone; in a Python package they lie in a folder include/.
  # scripts/setup puts them into build-packages/ where no interpreter has them.
  find_program(TRIREME_PYTHON NAMES python3 python)
  if(TRIREME_PYTHON)
    execute_process(OUTPUT_VARIABLE frontend_hints OUTPUT_STRIP_TRAILING_WHITESPACE ERROR_QUIET
      COMMAND ${TRIREME_PYTHON} -c
      "import site, sysconfig; print(sysconfig.get_paths()['purelib'], site.getusersitepackages(), sep=';', end='')")
  endif()
  find_path(TRIREME_CUDNN_FRONTEND cudnn_frontend.h HINTS ${frontend_hints} ${CMAKE_SOURCE_DIR}/build-packages
    PATH_SUFFIXES include)
  find_path(TRIREME_CUDNN cudnn.h HINTS ${CUDAToolkit_INCLUDE_DIRS})
  if(TRIREME_CUDNN_FRONTEND AND TRIREME_CUDNN)
    set(TRIREME_WITH_CUDNN ON)
    message(STATUS "cuDNN attention: ${TRIREME_CUDNN_FRONTEND}")
  elseif(TRIREME_CUDNN)
    message(STATUS "cuDNN attention: off (cudnn_frontend.h was not found: pip install nvidia-cudnn-frontend, or "
      "-DTRIREME_CUDNN_FRONTEND=its include folder); attention runs on slower kernels of ours")
  else()
    message(STATUS "cuDNN attention: off (cudnn.h was not found: apt-get install libcudnn9-dev-cuda-13, NVIDIA's "
      "repository); attention runs on slower kernels of ours")
  endif()
endif()

# trireme_cuda_sources(TARGET NAME): adds the sources of the folders named cuda/ below NAME/ to TARGET.
function(trireme_cuda_sources target name)
  if(TRIREME_CUDA_KIND STREQUAL "off")
    return()
  endif()
  file(GLOB_RECURSE sources CONFIGURE_DEPENDS ${CMAKE_SOURCE_DIR}/${name}/*.cc ${CMAKE_SOURCE_DIR}/${name}/*.cu)
  list(FILTER sources INCLUDE REGEX "/cuda/")
  if(NOT sources)
    return()
  endif()
  if(TRIREME_WITH_CUDNN)
    list(FILTER sources EXCLUDE REGEX "_cudnn_missing\\.cc$")
  else()
    list(FILTER sources EXCLUDE REGEX "_cudnn\\.cc$")
  endif()
  if(TRIREME_CUDA_KIND STREQUAL "emulated")
    # The loaders of NVIDIA's libraries give way to the emulator, which defines the same functions; cuDNN has no stand-in.
    list(FILTER sources EXCLUDE REGEX "/cuda/loader/")
    set(kernels ${sources})
    list(FILTER kernels INCLUDE REGEX "\\.cu$")
    set_source_files_properties(${kernels} PROPERTIES LANGUAGE CXX
      COMPILE_OPTIONS "-x;c++;-fno-strict-aliasing;-Wno-unknown-pragmas")
    target_link_libraries(${target} PUBLIC trireme_emulator)
  else()
    list(FILTER sources EXCLUDE REGEX "/cuda/emulated/")
    target_include_directories(${target} SYSTEM PRIVATE ${CUDAToolkit_INCLUDE_DIRS})
    set(cudnn_sources ${sources})
    list(FILTER cudnn_sources INCLUDE REGEX "_cudnn\\.cc$")
    set_source_files_properties(${cudnn_sources} PROPERTIES
      COMPILE_OPTIONS "-O1;-isystem;${TRIREME_CUDNN_FRONTEND};-isystem;${TRIREME_CUDNN}")
    target_link_libraries(${target} PUBLIC CUDA::cudart_static)
  endif()
  trireme_apart(${sources} MATCHING "/nccl_group\\.cc$")  # seeded faults compile it again
  target_sources(${target} PRIVATE ${sources})
endfunction()
