#!/usr/bin/env bash
# The CUDA program on a machine without a GPU: it starts, says what is missing, and trains on the CPU with the same bits
# as a program that has no CUDA in it. Prints "ok WHAT" or "FAILED WHAT" for each.
#
# Where cuDNN is, it is asked whether it would take our attention on GPUs that aren't here.
#
#   program_test.sh CUDA_PROGRAM REFERENCE_PROGRAM PROBES: the folder of library_probe and attention_plans
set -uo pipefail
program="$(realpath "${1:?the CUDA program}")" reference="$(realpath "${2:?a program without CUDA}")"
probes="$(realpath "${3:?the folder of library_probe and attention_plans}")"
work="$(mktemp -d)"
trap 'rm -rf "$work"' EXIT
failures=0

check() {
  local what=$1 status=0
  shift
  if "$@" >"$work/out" 2>&1; then
    echo "ok $what"
  else
    status=$?
    echo "FAILED $what (exit status $status)"
    tail -n 20 "$work/out"
    failures=$((failures + 1))
  fi
}

# exits CODE TEXT COMMAND…: the command ends with CODE and says TEXT.
exits() {
  local code=$1 text=$2 found=0 out
  shift 2
  out="$("$@" 2>&1)" || found=$?
  echo "$out"
  [ $found = "$code" ] && grep -q "$text" <<<"$out"
}

needs_no_library() { ! ldd "$program" | grep -E 'libnccl|libcublas|libcudnn|libcuda\.'; }
same_checkpoints() {
  local file
  for file in "$work"/cuda/checkpoints/step-*/*.safetensors; do
    cmp "$file" "${file/\/cuda\//\/reference\/}" || return 1
  done
}

# without LIBRARY COMMAND…: the command on a machine that lacks the library: it can't be opened.
cat >"$work/hide.c" <<END
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdlib.h>
#include <string.h>
void* dlopen(const char* file, int mode) {
  void* (*real)(const char*, int) = (void* (*)(const char*, int))dlsym(RTLD_NEXT, "dlopen");
  return real(file != NULL && strstr(file, getenv("HIDDEN_LIBRARY")) != NULL ? "libhidden-by-the-test.so" : file, mode);
}
END
without() {
  local library=$1
  shift
  HIDDEN_LIBRARY="$library" LD_PRELOAD="$work/hide.so" "$@"
}

for i in $(seq 1 3000); do echo "line $i of a text with $((i * i % 97)) in it"; done >"$work/text.txt"
check "tokenizes" "$program" data tokenize "$work/text.txt" --tokenizer bytes --out "$work/text"
cat >"$work/config.yaml" <<END
run: {dir: $work/run, steps: 4, threads: 2}
model: {model_type: llama, hidden_size: 48, num_hidden_layers: 2, num_attention_heads: 3, num_key_value_heads: 1,
        intermediate_size: 96, vocab_size: 256, max_position_embeddings: 64}
data: {train: [{path: $work/text}], sequence_length: 64}
batch: {global: 4, micro: 2}
END

check "needs no library of NVIDIA's to start" needs_no_library
check "prints its help" "$program" train --help
check "doctor says that there is no driver" exits 0 "no NVIDIA driver was found" "$program" doctor
if [ -e /dev/nvidiactl ]; then
  echo "ok (a driver is here: what is said without one is not tried)"
else
  check "device cuda exits 4 and names the driver" \
    exits 4 "no NVIDIA driver was found" "$program" train "$work/config.yaml" --set run.device=cuda
fi
check "a shim that hides libraries" g++ -x c -shared -fPIC -o "$work/hide.so" "$work/hide.c" -ldl
for library in nccl:libnccl.so.2:libnccl2 cublaslt:libcublasLt.so.13:libcublas-13-0 cublas:libcublas.so.13:libcublas-13-0; do
  IFS=: read -r name file package <<<"$library"
  check "a call of the missing $file exits 4 and names the package" \
    exits 4 "$file .*was not found.*apt-get install $package" without "$file" "$probes/library_probe" "$name"
done
for library in libnccl.so.2:libnccl2 libcudnn.so.9:libcudnn9-cuda-13; do
  check "doctor names the package of the missing ${library%:*}" \
    exits 0 "apt-get install ${library#*:}" without "${library%:*}" "$program" doctor
done
takes_attention() {
  local out status=0
  out="$(LD_LIBRARY_PATH="$probes/driver_stub:${LD_LIBRARY_PATH:-}" "$probes/attention_plans" "$1" 2>&1)" || status=$?
  echo "$out"
  [ $status = 0 ] || { [ "${CI:-}" != true ] && grep -qE "libcudnn.* was not found|was built without cuDNN" <<<"$out"; }
}
for gpu in a100 h200 b200; do
  check "cuDNN takes attention, with documents and without, on a $gpu" takes_attention $gpu
done
check "backend nccl on the CPU exits 2" \
  exits 2 "nccl needs GPUs" "$program" train "$work/config.yaml" --set run.device=cpu --set parallel.backend=nccl
check "trains on the CPU" "$program" train "$work/config.yaml" --set "run.dir=$work/cuda" --set run.device=cpu
check "the other program trains" "$reference" train "$work/config.yaml" --set "run.dir=$work/reference" --set run.device=cpu
check "both have the same bits" same_checkpoints
[ $failures = 0 ]
