#!/usr/bin/env python3
"""Compares `triad tokenizer` with the `tokenizers` library on random texts and random training sets.

    python tests/golden/check_tokenizer.py [--triad build/triad] [--texts 20000] [--trainings 60] [--seed 1]

needs `pip install tokenizers` (0.23 was used). Exit status 1 where anything differs. Texts have no line feed, since triad reads
them a line each; line feeds are in the cases of make_tokenizer.py.
"""
import argparse
import json
import os
import random
import subprocess
import sys
import tempfile

from tokenizers import ByteLevelBPETokenizer

import make_tokenizer

ATOMS = ["<s>", "</s>", "<pad>", "<mask>", "<unk>", "<|startoftext|>", "<|endoftext|>", "<|begin|>", "[CLS]", "[SEP]", "[MASK]", "cat",
         "catnip", "new york", "Straße", "CAFÉ au lait", "'s", "'LL", "n't", "\u200d", "\ufe0f", "👩🏽‍🚒", "🇩🇪", "e\u0301", "\u0323\u0307", "##",
         "</w>", "▁", "Ġ", "@@", "<0x41>", "skin", "\r", "\t", "  ", "\u3000", "\u00a0", "。", "１２", "ﬁ", "İ", "ß", "Σ", "각", "각"]
RANGES = [(32, 127), (32, 127), (97, 123), (97, 123), (0xa0, 0x250), (0x250, 0x370), (0x370, 0x530), (0x590, 0x700), (0x900, 0xe80),
          (0x1100, 0x1200), (0x1e00, 0x2000), (0x2000, 0x2070), (0x2070, 0x2400), (0x3000, 0x3100), (0x4e00, 0x5000), (0xac00, 0xad00),
          (0xfb00, 0xfb20), (0xfe00, 0xff60), (0x1f000, 0x1fb00), (1, 10), (14, 32), (0x80, 0xa0), (0x10000, 0x20000), (0xe000, 0xe010),
          (0x700, 0x1100), (0x1200, 0x1e00), (0xa000, 0xd800)]


def texts(count, seed, words):
    rng = random.Random(seed)
    for _ in range(count):
        parts = []
        ranges = rng.sample(RANGES, 3)
        for _ in range(rng.randrange(16)):
            kind = rng.random()
            if kind < 0.3:
                parts.append(rng.choice(words))
            elif kind < 0.45:
                parts.append(rng.choice(ATOMS))
            else:
                lo, hi = rng.choice(ranges)
                parts.append("".join(chr(rng.randrange(lo, hi)) for _ in range(rng.randrange(1, 9))))
            parts.append(rng.choice(["", "", " ", " ", "  ", "\t"]))
        yield "".join(parts).replace("\n", " ")


def run(*args, **kw):
    p = subprocess.run(args, capture_output=True, **kw)
    if p.returncode:
        sys.exit(f"{' '.join(args)}: {p.stderr.decode(errors='replace')}")
    return p.stdout


def check_texts(triad, folder, lines, all_texts):
    wrong = 0
    for name, make in make_tokenizer.KINDS.items():
        t = make(lines)
        path = os.path.join(folder, name + ".json")
        t.save(path)
        out = run(triad, "tokenizer", "encode", path, "--lines", input=("\n".join(all_texts) + "\n").encode())
        got = [json.loads(x) for x in out.decode().splitlines()]
        want = [x.ids for x in t.encode_batch(all_texts)]
        bad = [i for i in range(len(all_texts)) if i >= len(got) or got[i] != want[i]]
        print(f"{name}: {len(all_texts)} texts, {sum(map(len, want))} tokens, {len(bad)} differ")
        for i in bad[:3]:
            print("  ", ascii(all_texts[i]), "\n   want", want[i], "\n   got ", got[i] if i < len(got) else None)
        wrong += len(bad)
    return wrong


def check_training(triad, folder, lines, all_texts, count, seed):
    wrong = 0
    rng = random.Random(seed)
    for i in range(count):
        if i % 3 == 0:
            some = rng.sample(lines, rng.choice([50, 500, 1500]))
        elif i % 3 == 1:
            some = rng.sample(all_texts, 300)
        else:
            alphabet = rng.choice(["ab", "abc", "aA 's", "abcdefgh 12", "é漢👩ab ", "xyz\t<s>/"])
            some = ["".join(rng.choice(alphabet) for _ in range(rng.randrange(1, 60))) for _ in range(rng.choice([5, 200]))]
        some = [s.rstrip("\r") for s in some if s.rstrip("\r")]
        vocab, least = rng.choice([259, 270, 300, 600, 3000]), rng.choice([1, 2, 5])
        source, path = os.path.join(folder, "in.txt"), os.path.join(folder, "out.json")
        with open(source, "w", encoding="utf-8", newline="\n") as f:
            f.write("\n".join(some) + "\n")
        run(triad, "tokenizer", "train", "--data", source, "--vocab", str(vocab), "--min-count", str(least), "-o", path)
        t = ByteLevelBPETokenizer()
        t.train_from_iterator(some, vocab_size=vocab, min_frequency=least, show_progress=False,
                              special_tokens=["<pad>", "<s>", "</s>"])
        want = json.loads(t.to_str())["model"]
        with open(path, encoding="utf-8") as f:
            got = json.load(f)["model"]
        if want["vocab"] != got["vocab"] or want["merges"] != got["merges"]:
            print(f"training {i} (vocab {vocab}, min-count {least}) differs")
            wrong += 1
    print(f"{count} trainings, {wrong} differ")
    return wrong


def main():
    p = argparse.ArgumentParser()
    p.add_argument("--triad", default="build/triad")
    p.add_argument("--texts", type=int, default=20000)
    p.add_argument("--trainings", type=int, default=60)
    p.add_argument("--seed", type=int, default=1)
    a = p.parse_args()
    lines = make_tokenizer.corpus()
    all_texts = list(texts(a.texts, a.seed, sorted({w for l in lines for w in l.split()})))
    with tempfile.TemporaryDirectory() as folder:
        wrong = check_texts(a.triad, folder, lines, all_texts)
        wrong += check_training(a.triad, folder, lines, all_texts, a.trainings, a.seed)
    sys.exit(1 if wrong else 0)


if __name__ == "__main__":
    main()
