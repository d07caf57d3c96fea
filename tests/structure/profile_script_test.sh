#!/usr/bin/env bash
# Whether scripts/profile calls Nsight Systems as it must, and what is recorded without it: the program runs on a small
# text on the CPU, below an nsys and an mpirun that only note how they are called.
#
#   profile_script_test.sh PATH/TO/scripts/profile PROGRAM
set -euo pipefail
script="$(realpath "${1:?the path of scripts/profile}")" program="$(realpath "${2:?the program}")"
tree="$(mktemp -d)"
trap 'rm -rf "$tree"' EXIT
mkdir -p "$tree"/{scripts,build,bin,plain}
cp "$script" "$tree/scripts/profile"
ln -s "$program" "$tree/build/trireme"

cat >"$tree/bin/nsys" <<'END'
#!/usr/bin/env bash
echo "nsys $*"
while [ "${1##*/}" != trireme ]; do shift; done
exec "$@"
END
cat >"$tree/bin/mpirun" <<'END'
#!/usr/bin/env bash
echo "mpirun $*"
END
chmod +x "$tree"/bin/*
# Everything else that the script calls, and no nsys that this machine may have.
for tool in bash dirname seq; do ln -s "$(command -v $tool)" "$tree/plain/$tool"; done

seq -f 'line %g of a text that is read' 1 2000 >"$tree/text.txt"
"$program" data tokenize "$tree/text.txt" --tokenizer bytes --out "$tree/text" >"$tree/log" 2>&1
cat >"$tree/config.yaml" <<END
run: {dir: "$tree/run", steps: 6, threads: 1, device: cpu}
model: {model_type: llama, hidden_size: 16, num_hidden_layers: 1, num_attention_heads: 2, num_key_value_heads: 1,
        intermediate_size: 16, vocab_size: 256, max_position_embeddings: 32}
data: {train: [{path: "$tree/text"}], sequence_length: 32}
batch: {global: 2, micro: 1}
END

failures=0
# expect WHAT CONDITION…
expect() {
  local what=$1
  shift
  "$@" && return
  printf 'FAILED %s; the script said:\n%s\n' "$what" "$out"
  failures=$((failures + 1))
}
says() { grep -qF -- "$1" <<<"$out"; }
# has_range FILE NAME: a range of that name is in the trace.
has_range() { [ -f "$1" ] && grep -qF "\"name\":\"$2\"" "$1"; }

out="$(PATH="$tree/bin:$PATH" "$tree/scripts/profile" --steps 3-4 --out report "$tree/config.yaml" 2>&1)" || true
expect "nsys records between the program's brackets" says "nsys profile --capture-range=cudaProfilerApi --capture-range-end=stop"
expect "nsys records ranges, kernels and messages" says "--trace=cuda,nvtx,mpi"
expect "the report has its name" says "--output report "
for name in step data "microbatch 0 forward" "forward layer 0" "backward layer 0" "weight layer 0" optimizer; do
  expect "the trace has $name" has_range "$tree/run/traces/step-3.rank-0.json" "$name"
done

rm -rf "$tree/run"
out="$(PATH="$tree/plain" "$tree/scripts/profile" "$tree/config.yaml" --set run.seed=3 2>&1)" || true
expect "a missing nsys is named with its package" says "nsys was not found (package nsight-systems-cli)"
expect "steps 5 and 6 are traced without it" has_range "$tree/run/traces/step-5.rank-0.json" step
expect "the last save is a range" has_range "$tree/run/traces/step-5.rank-0.json" checkpoint

out="$(PATH="$tree/bin:$PATH" "$tree/scripts/profile" --ranks 3 "$tree/config.yaml" --set run.seed=3 2>&1)" || true
expect "ranks run under mpirun, each below nsys" says "mpirun -np 3 nsys profile "
expect "each rank has a report" says "--output trireme.%q{OMPI_COMM_WORLD_RANK} "
expect "all ranks are traced, options go on" says "--set profile.ranks=[0,1,2] --set run.seed=3"

status=0
out="$("$tree/scripts/profile" --steps 3-4 2>&1)" || status=$?
expect "no configuration is an error" [ $status = 2 ]
[ $failures = 0 ] || exit 1
echo "scripts/profile records what it must"
