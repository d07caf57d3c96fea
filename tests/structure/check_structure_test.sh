#!/usr/bin/env bash
# Whether scripts/check_structure sees each kind of fault: a small good tree passes, and with one fault at a
# time the fault is named.
#
#   check_structure_test.sh PATH/TO/check_structure
set -euo pipefail
check="${1:?the path of check_structure}"
tree="$(mktemp -d)"
trap 'rm -rf "$tree"' EXIT

good_tree() {
  rm -rf "${tree:?}"/* "$tree"/.[!.]*
  mkdir -p "$tree"/{core/ops,parallel,models,optim,checkpoint,launcher,configs,tests,scripts,cmake,.ci,build/x,runs,.git}
  local folder
  for folder in . core parallel models optim checkpoint launcher configs tests scripts; do
    echo "what it is for" >"$tree/$folder/README.md"
  done
  printf '#pragma once\n#ifdef __CUDACC__\n#endif\n#ifdef __INTEL_COMPILER\n#endif\n' >"$tree/core/ops/a.h"
  printf '#include "core/ops/a.h"\n#include <vector>\n#ifdef TRIREME_CUDA\n#endif\n' >"$tree/core/ops/a.cc"
  printf '#include "core/ops/a.h"\n#include "parallel/b.h"\n' >"$tree/parallel/b.h"
  printf '#include "parallel/b.h"\n' >"$tree/models/c.cc"
  printf '#include "models/c.h"\n#include "optim/d.h"\n#include "checkpoint/e.h"\n' >"$tree/launcher/main.cc"
  printf '#include "launcher/cli.h"\n' >"$tree/tests/a_test.cc"
}

failures=0
# expect NAME TEXT: the check fails and one of its lines is TEXT.
expect() {
  local out status=0
  out="$("$check" --root "$tree" 2>&1)" || status=$?
  if [ $status != 1 ] || ! grep -qF -- "$2" <<<"$out"; then
    printf 'FAILED %s: expected status 1 and "%s"; status %s and\n%s\n' "$1" "$2" $status "$out"
    failures=$((failures + 1))
  fi
  good_tree
}
include() { printf '#include "%s"\n' "$2" >>"$tree/$1"; }

good_tree
if ! out="$("$check" --root "$tree" 2>&1)" || [ -n "$out" ]; then
  printf 'FAILED the good tree: %s\n' "$out"
  failures=$((failures + 1))
fi

include core/ops/a.cc parallel/b.h;      expect "core uses parallel" 'core/ops/a.cc:5: core may include core only, not "parallel/b.h"'
include parallel/b.h models/c.h;         expect "parallel uses models" 'parallel/b.h:3: parallel may include'
include models/c.cc optim/d.h;           expect "models use optim" 'models/c.cc:2: models may include'
include models/c.cc checkpoint/e.h;      expect "models use checkpoint" 'models/c.cc:2: models may include'
include optim/d.cc models/c.h;           expect "optim uses models" 'optim/d.cc:1: optim may include'
include checkpoint/e.cc models/c.h;      expect "checkpoint uses models" 'checkpoint/e.cc:1: checkpoint may include'
include checkpoint/e.cc launcher/cli.h;  expect "checkpoint uses launcher" 'checkpoint/e.cc:1: checkpoint may include'
include launcher/main.cc tests/a.h;      expect "the program uses tests" 'launcher/main.cc:4: launcher may include'
include core/ops/a.cc a.h;               expect "a relative include" 'core/ops/a.cc:5: include "a.h" by its path'
seq 601 >"$tree/core/long.cc";           expect "a long file" 'core/long.cc: 601 lines; at most 600'
seq 601 >"$tree/tests/long.h";           expect "a long header of tests" 'tests/long.h: 601 lines; at most 600'
echo >"$tree/core/BadName.cc";           expect "a file's name" 'core/BadName.cc: file names are snake_case'
for condition in '#ifdef TRIREME_CUDA' '#if defined(HAVE_NCCL)' '  #  ifndef USE_MPI' '#elif TRIREME_CUDA == 2'; do
  echo "$condition" >>"$tree/parallel/b.h"
  expect "the header's '$condition'" 'parallel/b.h:3: a header must not depend on a flag of the build'
done
mkdir "$tree/utils";                     expect "a folder too many" 'utils/: not one of the folders'
mkdir "$tree/.hidden";                   expect "a hidden folder" '.hidden/: not one of the folders'
rm "$tree/models/README.md";             expect "no README in models" 'models/: README.md is missing'
rm "$tree/README.md";                    expect "no README at the top" 'README.md is missing'
rm -r "$tree/optim";                     expect "a missing folder" 'optim/: the folder is missing'
rm -r "$tree"/*/*.cc "$tree"/*/*.h "$tree"/core/ops; expect "no sources" 'no source file was found'

[ $failures = 0 ] || { echo "$failures failed"; exit 1; }
echo "all faults were named"
