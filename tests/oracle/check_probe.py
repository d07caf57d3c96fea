#!/usr/bin/env python3
"""Compares what `trireme probe` wrote with the golden file of a case. Needs numpy and safetensors only.

    python tests/oracle/check_probe.py tests/oracle/golden/llama --print-command   # the probe command of that case
    python tests/oracle/check_probe.py tests/oracle/golden/llama /tmp/out.safetensors

Exit code 0: every error within its bound; 1: one is not; 3: a file lacks tensors.
"""

import argparse
import json
import pathlib
import shlex
import sys

from safetensors.numpy import load_file

import measure


def probe_command(case_dir, out):
    """The `trireme probe` line that runs the case with the optimizer settings of case.json."""
    description = json.loads((case_dir / "case.json").read_text())
    settings = dict(description["optimizer"])
    schedule = settings.pop("schedule")
    words = ["build/trireme", "probe", str(case_dir), "--tokens", str(case_dir / "tokens.safetensors"), "--out", out,
             "--steps", str(description["steps"]), "--logits", "--set", "precision.compute=fp32"]
    settings |= {f"schedule.{key}": value for key, value in schedule.items()}
    for key, value in settings.items():
        words += ["--set", f"optimizer.{key}={value}"]
    return shlex.join(words)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("case_dir", type=pathlib.Path, metavar="CASE", help="a folder of tests/oracle/golden")
    parser.add_argument("found", nargs="?", metavar="OUT", help="the file that `trireme probe --out OUT` wrote")
    parser.add_argument("--print-command", action="store_true", help="print the probe command and stop")
    parser.add_argument("--all", action="store_true", help="print the error of every tensor, not of the worst only")
    options = parser.parse_args()
    if options.print_command:
        print(probe_command(options.case_dir, options.found or "/tmp/probe.safetensors"))
        return 0
    if not options.found:
        parser.error("OUT is missing (or give --print-command)")

    expected = load_file(options.case_dir / "expected.safetensors")
    found = load_file(options.found)
    missing = sorted(set(expected) - set(found))
    if missing:
        print(f"error: {options.found} lacks {len(missing)} of {len(expected)} tensors: {', '.join(missing[:8])}",
              file=sys.stderr)
        return 3
    unknown = sorted(set(found) - set(expected))
    if unknown:
        print(f"note: tensors that the golden file does not have: {', '.join(unknown[:8])}")
    errors = measure.errors(found, expected)
    if options.all:
        for name, error in sorted(errors.items(), key=lambda item: -item[1]):
            print(f"{error:9.2e}  {name}")
    passed = True
    for kind, (error, name) in measure.worst(errors).items():
        good = error <= measure.BOUNDS[kind]
        passed &= good
        print(f"{'ok  ' if good else 'FAIL'} {kind:10} {error:9.2e} (bound {measure.BOUNDS[kind]:.0e}), worst: {name}")
    return 0 if passed else 1


if __name__ == "__main__":
    sys.exit(main())
