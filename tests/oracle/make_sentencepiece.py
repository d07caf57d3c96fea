#!/usr/bin/env python3
"""Writes tiny SentencePiece models and the ids that the Python package gives for some strings.

    python tests/oracle/make_sentencepiece.py       # writes tests/oracle/golden/sentencepiece/

`bytes.model` falls back to bytes, so it can encode anything; `plain.model` gives its unknown id instead.
"""

import io
import json
import pathlib

import sentencepiece

OUT = pathlib.Path(__file__).parent / "golden" / "sentencepiece"

TEXT = """\
A trireme had three banks of oars and moved as one ship.
The rowers on the upper bank pulled the longest oars, and the rowers below them pulled the shorter ones.
One man beat the time; all the others kept it, and the ship went straight.
When one rower lost the stroke, the oars behind his oar struck it, and the whole bank stood still.
So the ship was as fast as its slowest bank, and the captain watched the slowest bank only.
In the harbour of the city two hundred ships lay side by side, each with its name on the bow.
They left in the morning, ten at a time, and before noon the sea was white with the wake of the fleet.
Nobody rowed alone and nobody rested alone; they learned the stroke on land before they went to sea.
A ship that leaked was hauled up, dried, mended and pitched again in one day.
Bread, barley, onions and water: what they carried was little, and every evening they landed to eat.
"""

STRINGS = [
    "",
    " ",
    "ship",
    "A trireme had three banks of oars.",
    "  two  spaces  and a tail ",
    "the rowers\nkept\tthe stroke\r\n",
    "Rowing, rowed, rows: 1, 23, 456!",
    "Thukydides schrieb über Schiffe; τριήρης",
    "🚣 ashore \u00e9 e\u0301",
    "\ufffd\u2581already\u2581marked",
    "<s> </s> <unk> <0x41>",
    "shipshipshipshipship" * 5,
]

MODELS = {
    "bytes": dict(model_type="unigram", vocab_size=360, byte_fallback=True),
    "plain": dict(model_type="bpe", vocab_size=120, byte_fallback=False),
}


def train(name, **settings):
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(TEXT.splitlines()), model_writer=model, character_coverage=1.0, num_threads=1,
        normalization_rule_name="identity", minloglevel=2, **settings)
    (OUT / f"{name}.model").write_bytes(model.getvalue())
    processor = sentencepiece.SentencePieceProcessor(model_proto=model.getvalue())
    return {
        "model": f"{name}.model", "vocab_size": processor.vocab_size(), "unk_id": processor.unk_id(),
        "bos_id": processor.bos_id(), "eos_id": processor.eos_id(),
        "strings": [{"text": text, "ids": ids, "decoded": processor.decode(ids)}
                    for text in STRINGS for ids in [processor.encode(text)]],
    }


def main():
    OUT.mkdir(parents=True, exist_ok=True)
    golden = [train(name, **settings) for name, settings in MODELS.items()]
    (OUT / "ids.json").write_text(json.dumps(golden, indent=1) + "\n")
    (OUT / "text.txt").write_text(TEXT)
    for entry in golden:
        print(entry["model"], entry["vocab_size"], "pieces,", sum(len(s["ids"]) for s in entry["strings"]), "ids")


if __name__ == "__main__":
    main()
