#!/usr/bin/env bash
# The program itself under mpirun: `trireme probe --logits` in layouts of 2, 4 and 8 ranks, against PyTorch and against one
# rank. Prints what differs.
#
#   probe_test.sh TRIREME CHECK_PROBE MPIEXEC
set -euo pipefail
trireme="$1" check="$2" mpiexec="$3"
work="$(mktemp -d)"
trap 'rm -rf "$work"' EXIT

# probe RANKS CASE OUT SET…
probe() {
  local ranks=$1 case=$2 out=$3 words=()
  shift 3
  mapfile -t words < <("$check" command "$case")
  for set in "$@"; do words+=(--set "$set"); done
  "$mpiexec" --allow-run-as-root --oversubscribe --bind-to none -np "$ranks" \
    "$trireme" probe "${words[@]}" --out "$out" --set run.device=cpu --set run.threads=1 >"$work/log" 2>&1 ||
    { cat "$work/log"; exit 1; }
}

# try RANKS CASE SET…
try() {
  local case=$2
  [ -f "$work/$case" ] || probe 1 "$case" "$work/$case"
  probe "$1" "$case" "$work/out" "${@:3}"
  "$check" compare "$case" "$work/out" "$work/$case" --gtest_brief=1 || { echo "red: $*"; exit 1; }
}

try 2 gpt2_erf parallel.tensor=2 parallel.sequence=true
try 4 llama_documents parallel.tensor=2 parallel.pipeline=2 batch.micro=1 parallel.schedule=zb_h1
try 8 qwen3_deep parallel.tensor=2 parallel.sequence=true parallel.pipeline=2 parallel.virtual_stages=3 \
  parallel.schedule=interleaved parallel.zero=3 batch.micro=1
try 8 gpt2_deep parallel.tensor=4 parallel.data=2 parallel.zero=2 batch.micro=1 recompute.mode=full
