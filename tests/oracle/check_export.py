#!/usr/bin/env python3
"""Exports checkpoints as Hugging Face directories and loads them with `transformers`: logits must agree to 1e-4 in fp32.

    python tests/oracle/check_export.py build/trireme                # every case, trained for some steps first
    python tests/oracle/check_export.py build/trireme --case llama   # one of them

For each case: the golden model, trained for three steps on two ranks that each write a part of the checkpoint, then
exported in fp32 in several shards and in bf16. `transformers` loads each directory with nothing but `from_pretrained`;
`trireme probe --logits` gives our logits of the same tokens. Prints the largest difference of each, relative to the
largest logit, and exits with 1 where one is above 1e-4.
"""

import argparse
import json
import pathlib
import subprocess
import sys
import tempfile

import numpy as np
import torch
import transformers
from safetensors.numpy import load_file, save_file

from cases import CASES
from make_golden import implementation

GOLDEN = pathlib.Path(__file__).parent / "golden"
BOUND = 1e-4


def run(words, **options):
    result = subprocess.run([str(word) for word in words], text=True, capture_output=True, **options)
    if result.returncode != 0:
        sys.exit(f"{' '.join(map(str, words))} ended with {result.returncode}\n{result.stdout}{result.stderr}")
    return result.stdout


def train(trireme, case, root):
    """A run directory with a checkpoint of three steps from the golden weights, data made of random tokens."""
    rng = np.random.default_rng(case.seed)
    header = np.zeros(256, dtype=np.int32)
    tokens = rng.integers(0, case.config["vocab_size"], 4000, dtype=np.uint16)
    header[:3] = 20240520, 1, len(tokens)
    (root / "data.bin").write_bytes(header.tobytes() + tokens.tobytes())
    config = {
        "run": {"dir": str(root / "run"), "steps": 3, "device": "cpu", "threads": 1},
        "model": {"config": str(GOLDEN / case.name)},
        "data": {"train": [{"path": str(root / "data.bin")}], "valid_fraction": 0, "sequence_length": 8},
        "batch": {"global": 4, "micro": 2},
        "optimizer": {"lr": 1e-3},
        "precision": {"compute": "fp32"},
        "checkpoint": {"every": 0, "init_from": str(GOLDEN / case.name)},
    }
    (root / "run.yaml").write_text(json.dumps(config))
    run([trireme, "launch", "--nproc", 2, "train", root / "run.yaml"])
    return root / "run"


def our_logits(trireme, case, directory, tokens, out):
    run([trireme, "probe", directory, "--tokens", tokens, "--out", out, "--steps", 1, "--logits",
         "--set", "run.device=cpu", "--set", "precision.compute=fp32"])
    return load_file(out)["logits"]


def their_logits(case, directory, tokens):
    model, info = transformers.AutoModelForCausalLM.from_pretrained(
        directory, dtype=torch.float32, output_loading_info=True, **implementation(case))
    # transformers has no modules of multi-token prediction, which stand behind the last layer.
    behind = tuple(f"model.layers.{case.config.get('num_hidden_layers', 0) + k}."
                   for k in range(case.config.get("num_mtp_layers", 0)))
    info["unexpected_keys"] = {key for key in info["unexpected_keys"] if not key.startswith(behind)}
    for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"):
        assert not info[kind], (directory, kind, info[kind])
    with torch.no_grad():
        return model.eval()(input_ids=torch.from_numpy(load_file(tokens)["input_ids"][0])).logits.numpy()


def check_case(trireme, case, root):
    checkpoint = train(trireme, case, root)
    tokens = root / "tokens.safetensors"  # the case's own, without documents
    ids = load_file(GOLDEN / case.name / "tokens.safetensors")
    save_file({name: ids[name] for name in ("input_ids", "labels")}, tokens)
    worst = {}
    for dtype, size in (("fp32", "20KB"), ("bf16", "5GB")):
        directory = root / dtype
        print("\n".join(run([trireme, "checkpoint", "export", checkpoint, directory, "--dtype", dtype,
                             "--max-shard-size", size]).splitlines()[1:]))
        # What comes back is what went out.
        run([trireme, "checkpoint", "import", directory, root / f"{dtype}-back"])
        if dtype == "fp32":
            run([trireme, "checkpoint", "diff", checkpoint, root / f"{dtype}-back", "--weights"])
        run([trireme, "checkpoint", "export", root / f"{dtype}-back", root / f"{dtype}-again"])
        for path in sorted(directory.glob("model*.safetensors")):
            again = {}
            for part in sorted((root / f"{dtype}-again").glob("model*.safetensors")):
                again |= load_raw(part)
            for name, value in load_raw(path).items():
                assert again[name] == value, (case.name, name)
        ours = our_logits(trireme, case, directory, tokens, root / "probe.safetensors")
        theirs = their_logits(case, directory, tokens)
        worst[dtype] = float(np.abs(ours - theirs).max() / np.abs(theirs).max())
    return worst


def load_raw(path):
    """Name -> dtype, shape and bytes, whatever the dtype."""
    data = path.read_bytes()
    length = int.from_bytes(data[:8], "little")
    header = json.loads(data[8:8 + length])
    header.pop("__metadata__", None)
    body = data[8 + length:]
    return {name: (entry["dtype"], entry["shape"], body[slice(*entry["data_offsets"])]) for name, entry in
            header.items()}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("trireme", type=pathlib.Path, help="the program")
    parser.add_argument("--case", action="append", help="only this case (may be repeated)")
    options = parser.parse_args()
    torch.set_num_threads(1)
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    passed = True
    for case in CASES:
        if options.case and case.name not in options.case:
            continue
        with tempfile.TemporaryDirectory() as root:
            worst = check_case(options.trireme.resolve(), case, pathlib.Path(root))
        for dtype, error in worst.items():
            passed &= error <= BOUND
            print(f"{'ok  ' if error <= BOUND else 'FAIL'} {case.name:20} {dtype} {error:.1e}", flush=True)
    return 0 if passed else 1


if __name__ == "__main__":
    sys.exit(main())
