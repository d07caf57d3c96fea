#!/usr/bin/env bash
# Whether scripts/test counts right: a small tree with tests that pass, fail, skip, crash or don't build, and the last
# line and exit status that must come out.
#
#   test_script_test.sh PATH/TO/scripts/test
set -euo pipefail
tree="$(mktemp -d)"
trap 'rm -rf "$tree"' EXIT
mkdir -p "$tree/scripts" "$tree"/build-{test,cuda,asan,tsan}/tests/emulator/selftest "$tree/tests/gpu" "$tree/bin"
cp "${1:?the path of scripts/test}" "$tree/scripts/test"

cat >"$tree/scripts/build" <<'END'
#!/usr/bin/env bash
[ "$1" != "$DOES_NOT_BUILD" ]
END
cat >"$tree/build-test/CTestTestfile.cmake" <<'END'
add_test(good true)
if(NOT "$ENV{SKIPS}" STREQUAL "")
  add_test(skipped echo SKIPPED)
  set_tests_properties(skipped PROPERTIES LABELS "$ENV{SKIPS}" SKIP_REGULAR_EXPRESSION SKIPPED)
endif()
if(NOT "$ENV{BAD}" STREQUAL "")
  add_test(bad false)
  add_test(missing /no/such/program)
endif()
END
cat >"$tree/build-asan/tests/unit_tests" <<'END'
#!/usr/bin/env bash
[ "$GTEST_SHARD_INDEX" = 0 ] || exit 0
[ "$SANITIZER" != skips ] || printf '[  SKIPPED ] 1 test, listed below:\n[  SKIPPED ] A.b\n'
[ "$SANITIZER" != reports ] || exit 66
printf '[  PASSED  ] 3 tests.\n'
[ "$SANITIZER" != fails ] || { printf '[  FAILED  ] 2 tests, listed below:\n[  FAILED  ] A.c\n'; exit 1; }
END
cat >"$tree/tests/gpu/program_test.sh" <<'END'
#!/usr/bin/env bash
echo "ok one thing"
END
printf '#!/bin/sh\n' >"$tree/bin/nvcc"
chmod +x "$tree/tests/gpu/program_test.sh" "$tree/bin/nvcc"
cp "$tree/build-asan/tests/unit_tests" "$tree/build-tsan/tests/parallel_tests"
for program in build-asan/tests/emulator_ops build-asan/tests/emulator/selftest/emulator_selftest build-tsan/tests/emulator_{ops,tests,training,layouts} build-tsan/tests/emulator/selftest/emulator_races; do
  printf '#!/bin/sh\n[ $GTEST_SHARD_INDEX != 0 ] || echo "[  PASSED  ] 1 test."\n' >"$tree/$program"
done
echo 'add_test(seeded_fault_of_memory true)' >"$tree/build-asan/CTestTestfile.cmake"
echo 'add_test(seeded_race_is_reported true)' >"$tree/build-tsan/CTestTestfile.cmake"
chmod +x "$tree"/scripts/* "$tree"/build-*/tests/* "$tree"/build-{asan,tsan}/tests/emulator/selftest/*

failures=0
# expect STATUS "LAST LINE" VARIABLES… -- ARGUMENTS…
expect() {
  local status=$1 line=$2 variables=() found=0 out
  shift 2
  while [ "$1" != -- ]; do variables+=("$1"); shift; done
  shift
  out="$(env CI= SKIPS= BAD= SANITIZER= DOES_NOT_BUILD= PATH="$tree/bin:$PATH" "${variables[@]}" "$tree/scripts/test" "$@" 2>&1)" || found=$?
  if [ $found != "$status" ] || [ "$(tail -n 1 <<<"$out")" != "$line" ]; then
    printf 'FAILED %s, %s: expected status %s and "%s"; status %s and\n%s\n' "${variables[*]}" "$*" "$status" "$line" $found "$out"
    failures=$((failures + 1))
  fi
}

expect 0 "17 passed, 0 failed, 0 skipped" --
expect 0 "1 passed, 0 failed, 0 skipped" -- --fast
expect 0 "1 passed, 0 failed, 0 skipped" -- --only goo
expect 1 "0 passed, 0 failed, 0 skipped" -- --only nothing
expect 1 "17 passed, 2 failed, 0 skipped" BAD=1 --
expect 0 "17 passed, 0 failed, 1 skipped" SKIPS=unit --
expect 1 "17 passed, 1 failed, 0 skipped" SKIPS=unit CI=true --
expect 0 "17 passed, 0 failed, 1 skipped" SKIPS=gpu CI=true --
expect 0 "17 passed, 0 failed, 2 skipped" SANITIZER=skips --
expect 1 "17 passed, 2 failed, 0 skipped" SANITIZER=skips CI=true --
expect 1 "17 passed, 4 failed, 0 skipped" SANITIZER=fails --
expect 1 "11 passed, 2 failed, 0 skipped" SANITIZER=reports --
expect 1 "0 passed, 1 failed, 0 skipped" DOES_NOT_BUILD=test --
expect 1 "16 passed, 1 failed, 0 skipped" DOES_NOT_BUILD=cuda --
expect 1 "11 passed, 1 failed, 0 skipped" DOES_NOT_BUILD=asan --
expect 1 "8 passed, 1 failed, 0 skipped" DOES_NOT_BUILD=tsan --

[ $failures = 0 ] || { echo "$failures failed"; exit 1; }
echo "scripts/test counts right"
