#!/usr/bin/env python3
"""MB/s of encoding on one core with the Python package `tokenizers`; the counterpart of tokenizer_bench.

    python tests/bench/tokenizer_reference.py TOKENIZER.json TEXT
"""

import os
import sys
import time

os.environ["TOKENIZERS_PARALLELISM"] = "false"

import tokenizers  # noqa: E402


def main():
    tokenizer = tokenizers.Tokenizer.from_file(sys.argv[1])
    text = open(sys.argv[2], "rb").read().decode(errors="replace")
    lines = text.splitlines(keepends=True)
    megabytes = len(text.encode()) / 1e6
    # One document of megabytes is not what the package is made for: it is timed on pieces of about 10 kB.
    pieces = ["".join(lines[i:i + 200]) for i in range(0, len(lines), 200)]
    for name, parts in [("in pieces", pieces), ("line by line", lines)]:
        best = None
        for _ in range(3):
            begin = time.thread_time()
            for part in parts:
                tokenizer.encode(part, add_special_tokens=False)
            seconds = time.thread_time() - begin
            best = seconds if best is None else min(best, seconds)
        print(f"tokenizers {tokenizers.__version__}, {name}: {megabytes / best:.2f} MB/s")


if __name__ == "__main__":
    main()
