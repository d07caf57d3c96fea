#!/usr/bin/env python3
"""Trains small byte-level BPE tokenizers in the styles of GPT-2, Llama 3 and Qwen, and writes the ids that the Python
package `tokenizers` gives.

    python tests/oracle/make_tokenizers.py               # writes tests/oracle/golden/bpe/
    python tests/oracle/make_tokenizers.py --mixture F   # only the 5 MB of text, to look at or to time

From `lines.txt` a small generator mixes 5 MB of text, which tests/unit/bpe_mixture.cc repeats in C++; of its ids the
golden file has a checksum for each 16,384.
"""

import argparse
import json
import pathlib
import struct
import zlib

OUT = pathlib.Path(__file__).parent / "golden" / "bpe"
MIXTURE_BYTES = 5_000_000
TRAINING_BYTES = 600_000
BLOCK_IDS = 16384

# Ranges of characters that have been there since Unicode 12 or longer.
RANGES = [
    (0x20, 0x7E), (0xA0, 0x24F), (0x300, 0x34E), (0x391, 0x3A1), (0x400, 0x52F), (0x5D0, 0x5EA), (0x621, 0x652),
    (0x905, 0x94D), (0xE01, 0xE3A), (0xF71, 0xF84), (0x1100, 0x11FF), (0x1B05, 0x1B3C), (0x1E00, 0x1EFF),
    (0x1F00, 0x1F15), (0x2000, 0x2064), (0x20A0, 0x20BF), (0x2100, 0x218B), (0x3041, 0x3096), (0x3099, 0x30FF),
    (0x4E00, 0x9FEF), (0xAC00, 0xD7A3), (0xF900, 0xFA6D), (0xFB1D, 0xFB36), (0xFE00, 0xFE0F), (0xFF01, 0xFFBE),
    (0x1D15E, 0x1D164), (0x1F300, 0x1F6D4), (0x20000, 0x2A6D6), (0x2F800, 0x2FA1D),
]
SPACES = [" ", " ", " ", "\n", "\n", "\t", "\r\n", "\r", "\u00A0", "\u3000", "\u2028", "\u0085", "\u200B", "\u180E", "\v"]
SEPARATORS = [" ", " ", " ", " ", "\n", "\n", "\n\n", "  ", "\t", "\r\n", " \n", "\n  ", "", ".\n"]
TOKENS = ["<|endoftext|>", "<|end_of_text|>", "<|begin|>", "<left>", "<right>", "<both>", "word", "Wort", "caf\u00e9", "cafe\u0301",
          "<|begin", "\u0301<left>", "xword", "word.", "word word"]


class Random:
    """A linear congruential generator modulo 2^64."""

    def __init__(self, seed):
        self.state = seed

    def below(self, n):
        self.state = (self.state * 6364136223846793005 + 1442695040888963407) % 2**64
        return (self.state >> 33) % n


def mixture(size, seed=1):
    lines = (OUT / "lines.txt").read_bytes().split(b"\n")[:-1]
    random = Random(seed)
    out = bytearray()
    while len(out) < size:
        kind = random.below(100)
        if kind < 62:
            out += lines[random.below(len(lines))]
            out += SEPARATORS[random.below(len(SEPARATORS))].encode()
        elif kind < 72:
            for _ in range(1 + random.below(8)):
                first, last = RANGES[random.below(len(RANGES))]
                out += chr(first + random.below(last - first + 1)).encode()
        elif kind < 80:
            for _ in range(1 + random.below(6)):
                out += SPACES[random.below(len(SPACES))].encode()
        elif kind < 84:
            out += str(random.below(1000000000)).encode()
        elif kind < 88:
            for _ in range(1 + random.below(6)):
                out.append(128 + random.below(128))
        elif kind < 92:
            out += TOKENS[random.below(len(TOKENS))].encode()
        else:
            line = lines[random.below(len(lines))]
            begin = random.below(len(line) + 1)
            out += line[begin:begin + 1 + random.below(20)]
    return bytes(out)


CONTRACTIONS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)"
REST = r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
LLAMA3 = CONTRACTIONS + r"|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}|" + REST
QWEN = CONTRACTIONS + r"|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}|" + REST

STRINGS = [
    b"", b" ", b"ship", b"A trireme had three banks of oars.", b"  two  spaces  and a tail ", b"\n\n\nline\r\n\r\n",
    "Größe, τριήρης, 船は🚣🏽‍♀️".encode(), "cafe\u0301 caf\u00e9 \u1112\u1161\u11ab \u2126".encode(), b"don't DON'T we'LL",
    b"123456 7890", b"\xff\xfe", b"a\xe2\x82b", b"\xf0\x9f\x98", b"\xed\xa0\x80\xf4\x90\x80\x80\xc0\x80", b"\x00\x01",
    b"<|endoftext|>", b"a<|endoftext|>b <|end_of_text|>", b"x <left> y", b"x <right>   y", b"x <both>\n\n <both> y",
    b"<right>     <left>", b"word words xword word", "Wort Wörter caf\u00e9 cafe\u0301 cafe\u0301s".encode(), b"<|begin|><|begin",
    "x\u200dword".encode(), "\u3000<left>\u2003\u00a0<right>\u0085.".encode(),
]


def added_tokens(tokenizers):
    token = tokenizers.AddedToken
    return [
        token("<|endoftext|>", special=True, normalized=False),
        token("<|end_of_text|>", special=True, normalized=False),
        token("<|begin|>", special=True, normalized=False),
        token("<left>", special=True, normalized=False, lstrip=True),
        token("<right>", special=False, normalized=False, rstrip=True),
        token("<both>", special=False, normalized=True, lstrip=True, rstrip=True),
        token("word", special=False, normalized=False, single_word=True),
        token("Wort", special=False, normalized=True, single_word=True),
        token("caf\u00e9", special=False, normalized=True),
    ]


def train(style, text):
    import tokenizers
    from tokenizers import decoders, models, normalizers, pre_tokenizers, processors, trainers
    byte_level = pre_tokenizers.ByteLevel
    tokenizer = tokenizers.Tokenizer(models.BPE())
    if style == "gpt2":
        tokenizer.pre_tokenizer = byte_level(add_prefix_space=False)
    else:
        pattern = tokenizers.Regex(LLAMA3 if style == "llama3" else QWEN)
        split = pre_tokenizers.Split(pattern, behavior="isolated", invert=False)
        tokenizer.pre_tokenizer = pre_tokenizers.Sequence([split, byte_level(add_prefix_space=False, use_regex=False)])
    if style == "qwen":
        tokenizer.normalizer = normalizers.NFC()
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.post_processor = processors.ByteLevel(trim_offsets=False)
    trainer = trainers.BpeTrainer(vocab_size=1600, initial_alphabet=byte_level.alphabet(), show_progress=False)
    tokenizer.train_from_iterator(text.decode(errors="replace").splitlines(keepends=True), trainer)
    tokens = added_tokens(tokenizers)
    # Cuts of long texts depend on these flags: the style of GPT-2 has tokens without them.
    tokenizer.add_tokens(tokens[:3] if style == "gpt2" else tokens)
    file = json.loads(tokenizer.to_str())
    merges = file["model"]["merges"]
    if style == "gpt2":
        file["model"]["merges"] = [" ".join(pair) for pair in merges]
    if style == "llama3":
        file["model"]["ignore_merges"] = True
        # Words that only the vocabulary has, so that the flag matters.
        file["model"]["merges"] = [pair for i, pair in enumerate(merges) if i < 600 or i % 5 != 0]
    (OUT / style).mkdir(parents=True, exist_ok=True)
    path = OUT / style / "tokenizer.json"
    path.write_text(json.dumps(file, ensure_ascii=False, separators=(",", ":")) + "\n")
    return tokenizers.Tokenizer.from_file(str(path))


def encode(tokenizer, text):
    return tokenizer.encode(text.decode(errors="replace"), add_special_tokens=False).ids


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--mixture", metavar="FILE")
    options = parser.parse_args()
    text = mixture(MIXTURE_BYTES)
    if options.mixture:
        pathlib.Path(options.mixture).write_bytes(text)
        return
    expected = {"mixture_bytes": MIXTURE_BYTES, "mixture_crc32": zlib.crc32(text), "block_ids": BLOCK_IDS, "styles": []}
    for style in ["gpt2", "llama3", "qwen"]:
        tokenizer = train(style, mixture(TRAINING_BYTES, seed=2))
        ids = encode(tokenizer, text)
        decoded = tokenizer.decode(ids, skip_special_tokens=False).encode()
        blocks = [ids[i:i + BLOCK_IDS] for i in range(0, len(ids), BLOCK_IDS)]
        expected["styles"].append({
            "style": style, "vocab_size": tokenizer.get_vocab_size(), "num_ids": len(ids),
            "decoded_crc32": zlib.crc32(decoded),
            "block_crc32": [zlib.crc32(struct.pack(f"<{len(block)}i", *block)) for block in blocks],
            "strings": [{"bytes": string.hex(), "ids": encode(tokenizer, string),
                         "decoded": tokenizer.decode(encode(tokenizer, string), skip_special_tokens=False).encode().hex()}
                        for string in STRINGS],
        })
        print(style, tokenizer.get_vocab_size(), "tokens,", len(ids), "ids of the mixture")
    (OUT / "expected.json").write_text(json.dumps(expected, separators=(",", ":")) + "\n")


if __name__ == "__main__":
    main()
