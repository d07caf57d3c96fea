#!/usr/bin/env bash
# Ranks fail: one message, one rank's last words, and the exit code of the cause. Prints what differs.
#
#   failing_ranks_test.sh FAILING_RANKS MPIEXEC
set -euo pipefail
program="$1" mpiexec="$2"
work="$(mktemp -d)"
trap 'rm -rf "$work"' EXIT

# expect HOW CODE MESSAGE
expect() {
  local code=0
  "$mpiexec" --quiet --allow-run-as-root --oversubscribe --bind-to none -np 3 "$program" "$1" \
    >"$work/out" 2>"$work/err" || code=$?
  if [ "$code" != "$2" ] || [ "$(grep -c '^error: ' "$work/err")" != 1 ] || ! grep -q "^error: $3" "$work/err" ||
    [ "$(cat "$work/out")" != "last words $2" ]; then
    echo "red: $1 ended with $code"
    cat "$work/out" "$work/err"
    exit 1
  fi
}

expect alike 3 'all find the same \[rank 0\]'
expect cause 4 'the cause \[rank 2\]'
expect peers 6 'another rank is late'
