# Finds every library and says which package brings a missing one.
include(FindPackageHandleStandardArgs)

# trireme_need(TARGET what PACKAGE debian-package): stops with the package's name when TARGET was not found.
function(trireme_need target package)
  if(NOT TARGET ${target})
    message(FATAL_ERROR "${target} was not found: apt-get install ${package} (or run scripts/setup)")
  endif()
endfunction()

# trireme_library(TARGET HEADER LIBRARY PACKAGE [PATHS dir…]): for libraries without a CMake file of their own.
# PATHS are searched before the system's own folders.
function(trireme_library target header library package)
  cmake_parse_arguments(ARG "" "" "PATHS" ${ARGN})
  string(MAKE_C_IDENTIFIER ${target} id)
  find_path(${id}_INCLUDE ${header} HINTS ${ARG_PATHS})
  find_library(${id}_LIBRARY NAMES ${library} HINTS ${ARG_PATHS})
  if(NOT ${id}_INCLUDE OR NOT ${id}_LIBRARY)
    message(FATAL_ERROR "${library} (${header}) was not found: apt-get install ${package} (or run scripts/setup)")
  endif()
  add_library(${target} INTERFACE IMPORTED GLOBAL)
  target_include_directories(${target} SYSTEM INTERFACE ${${id}_INCLUDE})
  target_link_libraries(${target} INTERFACE ${${id}_LIBRARY})
endfunction()

set(THREADS_PREFER_PTHREAD_FLAG ON)
find_package(Threads REQUIRED)

find_package(MPI QUIET COMPONENTS CXX)
trireme_need(MPI::MPI_CXX libopenmpi-dev)
add_compile_definitions(OMPI_SKIP_MPICXX)

find_package(spdlog QUIET)
trireme_need(spdlog::spdlog libspdlog-dev)

find_package(ZLIB QUIET)
trireme_need(ZLIB::ZLIB zlib1g-dev)

find_package(nlohmann_json QUIET)
trireme_need(nlohmann_json::nlohmann_json nlohmann-json3-dev)

find_package(CLI11 QUIET)
trireme_need(CLI11::CLI11 libcli11-dev)

trireme_library(yaml-cpp::yaml-cpp yaml-cpp/yaml.h yaml-cpp libyaml-cpp-dev)
trireme_library(xxhash::xxhash xxhash.h xxhash libxxhash-dev)
trireme_library(sentencepiece::sentencepiece sentencepiece_processor.h sentencepiece libsentencepiece-dev)
trireme_library(pcre2::pcre2 pcre2.h pcre2-8 libpcre2-dev)
trireme_library(utf8proc::utf8proc utf8proc.h utf8proc libutf8proc-dev)
trireme_library(dnnl::dnnl dnnl.hpp dnnl libdnnl-dev)
