#!/usr/bin/env python3
"""A worker that only pretends to train, for gpu_check_test.py: it answers the protocol of tests/bench/README.md at once.

FAKE_TRIREME or FAKE_TORCH says how it behaves, in words: `fits=N` (more sequences run out of memory), `alone=FILE` (out
of memory as long as FILE exists), `holds=FILE` (FILE exists while it lives), `hangs`, `crashes`, `seconds=X`.
"""

import json
import os
import re
import sys
import time

IS_TORCH = "torch_gpu_reference.py" in " ".join(sys.argv)
WORDS = dict(word.partition("=")[::2] for word in os.environ.get("FAKE_TORCH" if IS_TORCH else "FAKE_TRIREME", "").split())
MICRO = int(re.search(r"(?:batch\.micro=|--micro )(\d+)", " ".join(sys.argv)).group(1))


def say(**fields):
    print(json.dumps(fields), flush=True)


def out_of_memory():
    if IS_TORCH:
        say(error="out of memory: tried to allocate")
    print("error: cuda:0 is out of memory: 5 bytes for activations", file=sys.stderr)
    sys.exit(4)


if "holds" in WORDS:
    open(WORDS["holds"], "w").close()
say(ready=True, program="fake", parameters=1000, flops_per_token=6000, peak_flops=1e9, tokens_per_step=1000, micro=MICRO)
for line in sys.stdin:
    word, _, count = line.strip().partition(" ")
    if word == "quit":
        break
    if MICRO > int(WORDS.get("fits", MICRO)) or os.path.exists(WORDS.get("alone", "/nowhere")):
        out_of_memory()
    if "hangs" in WORDS:
        time.sleep(600)
    if "crashes" in WORDS:
        sys.exit("error: something broke")
    seconds = float(WORDS.get("seconds", "0.01"))
    if word == "step":
        say(seconds=[seconds] * int(count), loss=1.0, phases={"forward": 0.4 * seconds, "backward": 0.6 * seconds},
            peak_memory_bytes=2**30, reserved_bytes=2**30)
    else:
        say(seconds=seconds, phases={"forward": seconds, "optimizer": 0.1 * seconds})
if "holds" in WORDS:
    os.remove(WORDS["holds"])
