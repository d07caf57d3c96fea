#!/usr/bin/env bash
# That every file of kernels has a fault among tests/emulator/faults which a test must see.
#
#   kernel_faults_test.sh [ROOT]
set -euo pipefail
root="$(cd "${1:-$(dirname "$0")/../..}" && pwd)"
cd "$root"

missing=0 count=0
for file in $(find core parallel models optim -name '*.cu' | sort); do
  count=$((count + 1))
  # Compiled for it with a patch: named as the source, or the first file of the diff.
  found=no
  for patch in tests/emulator/faults/*.patch; do
    source="$(sed -nE 's/^# source: *//p' "$patch" | head -1)"
    [ -n "$source" ] || source="$(sed -nE 's#^\+\+\+ b/([^[:space:]]*).*#\1#p' "$patch" | head -1)"
    [ "$source" != "$file" ] || { found=yes; break; }
  done
  [ $found = yes ] || { echo "$file: no patch of tests/emulator/faults breaks it"; missing=$((missing + 1)); }
done
[ $count -gt 0 ] || { echo "no kernels were found below $root"; exit 1; }
[ $missing = 0 ] || exit 1
echo "each of $count files of kernels has a fault that a test must see"
