#!/usr/bin/env bash
# Whether cmake/cuda.cmake decides and says what it must where nvcc is missing, too old, or not wanted.
#
#   cuda_choice_test.sh PATH/TO/cmake/cuda.cmake
set -euo pipefail
module="$(realpath "${1:?the path of cuda.cmake}")"
tree="$(mktemp -d)"
trap 'rm -rf "$tree"' EXIT
mkdir "$tree/bin"
cat >"$tree/CMakeLists.txt" <<END
cmake_minimum_required(VERSION 3.25)
project(choice NONE)
include($module)
END
printf '#!/bin/sh\necho "Cuda compilation tools, release 12.4, V12.4.131"\n' >"$tree/bin/nvcc"
chmod +x "$tree/bin/nvcc"

failures=0
# expect STATUS TEXT ARGUMENTS…
expect() {
  local status=$1 text=$2 found=0 out
  shift 2
  rm -rf "$tree/build"
  out="$(cmake -S "$tree" -B "$tree/build" -G Ninja "$@" 2>&1)" || found=1
  # CMake breaks the lines of errors.
  if [ $found != "$status" ] || [[ "$(tr -s ' \n' ' ' <<<"$out")" != *"$text"* ]]; then
    printf 'FAILED %s: expected status %s and "%s"; status %s and\n%s\n' "$*" "$status" "$text" $found "$out"
    failures=$((failures + 1))
  fi
}

expect 1 "TRIREME_CUDA is 'yes'; it takes auto, on, off or emulated" -DTRIREME_CUDA=yes
expect 0 "CUDA: off" -DTRIREME_CUDA=off
expect 0 "CUDA: emulated" -DTRIREME_CUDA=emulated
missing=-DCMAKE_CUDA_COMPILER=NOTFOUND
expect 0 "nvcc was not found: apt-get install cuda-toolkit" $missing
expect 0 "CUDA: off" $missing
expect 1 "TRIREME_CUDA=on, but nvcc was not found: apt-get install cuda-toolkit" $missing -DTRIREME_CUDA=on
old="-DCMAKE_CUDA_COMPILER=$tree/bin/nvcc"
expect 0 "nvcc is of CUDA 12.4, and 13.0 or later is needed: apt-get install cuda-toolkit-13-0" "$old"
expect 0 "CUDA: off" "$old"
expect 1 "nvcc is of CUDA 12.4, and 13.0 or later is needed: apt-get install cuda-toolkit-13-0" "$old" -DTRIREME_CUDA=on
[ $failures = 0 ] || exit 1
echo "cuda.cmake decides and says what it must"
