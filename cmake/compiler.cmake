# Language, warnings, optimisation and sanitizers, the same for every target.
set(CMAKE_CXX_STANDARD 20)
set(CMAKE_CXX_STANDARD_REQUIRED ON)
set(CMAKE_CXX_EXTENSIONS OFF)
set(CMAKE_POSITION_INDEPENDENT_CODE ON)

find_program(CCACHE ccache)
if(CCACHE)
  set(CMAKE_CXX_COMPILER_LAUNCHER ${CCACHE})
endif()

# One binary for AVX2 and later: everything is built for x86-64-v3; kernels that gain from AVX-512 are compiled
# a second time and chosen at run time (core/ops/cpu/multiversion.h). Line tables only: full debug information
# triples build time.
set(CMAKE_CXX_FLAGS_RELWITHDEBINFO "-O2 -g1")
# trireme_compile_options(option…): for the host compiler, also where nvcc calls it.
function(trireme_compile_options)
  add_compile_options("$<$<COMPILE_LANGUAGE:CXX>:${ARGN}>")
  string(REPLACE ";" "," host "${ARGN}")
  add_compile_options("$<$<COMPILE_LANGUAGE:CUDA>:-Xcompiler=${host}>")
endfunction()
trireme_compile_options(-march=x86-64-v3 -Wall -Wextra -Wshadow -Werror
  -fno-math-errno -fno-trapping-math -ffp-contract=fast -fopenmp-simd)

# Sanitized trees are built for one run: -Og compiles in half the time of -O1. GCC sees uninitialised variables in
# instrumented code where there are none; the release tree has that warning. Of the undefined behaviour, what
# AddressSanitizer sees as well (null, object-size) and vptr are left out, for a third of the time.
if(TRIREME_SANITIZE)
  add_compile_options(-Og -fno-omit-frame-pointer -Wno-maybe-uninitialized)
  add_compile_definitions(TRIREME_SANITIZED)
  # Eight sources at a time, which read their headers and make what they need of the same templates once, in 0.6 of the
  # time. The test tree compiles each by itself, and so sees an #include that is missing. Two of the eight with the
  # same name in their unnamed namespaces don't compile: rename one, or leave it out (trireme_apart).
  # What a name of another source shadows, and an unnamed namespace of an included one, the test tree judges as well.
  add_compile_options(-Wno-shadow -Wno-subobject-linkage)
  set(CMAKE_UNITY_BUILD ON)
  set(CMAKE_UNITY_BUILD_BATCH_SIZE 8)
endif()
# trireme_apart(SOURCE… [MATCHING regex]): these, of them those that match, are always compiled by themselves. To be
# called in the folder of the target.
function(trireme_apart)
  cmake_parse_arguments(ARG "" "MATCHING" "" ${ARGN})
  set(sources ${ARG_UNPARSED_ARGUMENTS})
  if(ARG_MATCHING)
    list(FILTER sources INCLUDE REGEX "${ARG_MATCHING}")
  endif()
  set_source_files_properties(${sources} PROPERTIES SKIP_UNITY_BUILD_INCLUSION ON)
endfunction()
if(TRIREME_SANITIZE STREQUAL "address")
  add_compile_options(-fsanitize=address,undefined -fno-sanitize=null,object-size,vptr -fno-sanitize-recover=all)
  add_link_options(-fsanitize=address,undefined)
elseif(TRIREME_SANITIZE STREQUAL "thread")
  add_compile_options(-fsanitize=thread)
  add_link_options(-fsanitize=thread)
elseif(NOT TRIREME_SANITIZE STREQUAL "")
  message(FATAL_ERROR "TRIREME_SANITIZE is '${TRIREME_SANITIZE}'; it takes nothing, address or thread")
endif()
