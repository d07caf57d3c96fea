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
add_compile_options(-march=x86-64-v3 -Wall -Wextra -Wshadow -Werror
  -fno-math-errno -fno-trapping-math -ffp-contract=fast -fopenmp-simd)

if(TRIREME_SANITIZE STREQUAL "address")
  add_compile_options(-fsanitize=address,undefined -fno-sanitize-recover=all -fno-omit-frame-pointer -O1)
  add_link_options(-fsanitize=address,undefined)
  add_compile_definitions(TRIREME_SANITIZED)
elseif(TRIREME_SANITIZE STREQUAL "thread")
  add_compile_options(-fsanitize=thread -fno-omit-frame-pointer -O1)
  add_link_options(-fsanitize=thread)
  add_compile_definitions(TRIREME_SANITIZED)
elseif(NOT TRIREME_SANITIZE STREQUAL "")
  message(FATAL_ERROR "TRIREME_SANITIZE is '${TRIREME_SANITIZE}'; it takes nothing, address or thread")
endif()
