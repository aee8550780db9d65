#!/usr/bin/env python3
"""Writes tests/golden/tokenizer/: small tokenizers made with the `tokenizers` library and what it says of nasty texts.

    python tests/golden/make_tokenizer.py [FOLDER]        needs `pip install tokenizers` (0.23 was used)

corpus.txt is what they are trained on, NAME.json the tokenizers, cases.json texts with ids and decoded texts. The same inputs give
the same files.
"""
import json
import os
import random
import sys
import unicodedata

from tokenizers import (AddedToken, ByteLevelBPETokenizer, Regex, Tokenizer, decoders, models, normalizers,
                        pre_tokenizers, processors, trainers)


def corpus():
    """Names of emoji and other characters, sentences, and lines in several scripts: 1,500 lines, fixed."""
    rng = random.Random(7)
    points = [c for lo, hi in ((0x1F300, 0x1F650), (0x1F680, 0x1F6D0), (0x2600, 0x27B0)) for c in range(lo, hi)]
    names = [unicodedata.name(chr(c), "").lower() for c in points]
    names = [n for n in names if n]
    tones = ["light", "medium-light", "medium", "medium-dark", "dark"]
    lines = []
    for i, name in enumerate(names):
        lines.append(name)
        if i % 3 == 0:
            lines.append(f"a picture of {name}: {rng.choice(tones)} skin tone")
        if i % 7 == 0:
            lines.append(f"It's {name}, isn't it? We'll take {rng.randrange(2000)} of them.")
        if i % 11 == 0:
            lines.append(f"{chr(points[i])}  {name}\t{name.title()}")
    lines += ["Bücher über Äpfel und Öl, naïve café", "été à la plage — où êtes-vous?", "猫が窓のそばで眠っている", "我们在学习很多东西。",
              "мы учимся на больших данных", "שלום עולם", "مرحبا بالعالم", "नमस्ते दुनिया", "한국어 문장입니다"] * 3
    return lines[:1500]


def gpt2(lines):
    t = ByteLevelBPETokenizer(add_prefix_space=True, trim_offsets=True)
    t.train_from_iterator(lines, vocab_size=480, min_frequency=2, show_progress=False,
                          special_tokens=["<s>", "<pad>", "</s>", "<unk>", "<mask>"])
    t = Tokenizer.from_str(t.to_str())
    t.add_special_tokens([AddedToken("<mask>", lstrip=True, normalized=False)])
    t.add_tokens([AddedToken("cat", single_word=True), AddedToken("catnip"), AddedToken("new york", rstrip=True)])
    t.post_processor = processors.RobertaProcessing(("</s>", 2), ("<s>", 0), trim_offsets=True, add_prefix_space=True)
    return t


def clip(lines):
    t = Tokenizer(models.BPE(unk_token="<|endoftext|>", end_of_word_suffix="</w>"))
    t.normalizer = normalizers.Sequence([normalizers.NFC(), normalizers.Replace(Regex(r"\s+"), " "), normalizers.Lowercase()])
    pattern = r"<\|startoftext\|>|<\|endoftext\|>|'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"
    t.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Split(Regex(pattern), "removed", invert=True),
                                               pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)])
    t.decoder = decoders.ByteLevel()
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    t.train_from_iterator(lines, trainers.BpeTrainer(
        vocab_size=700, special_tokens=["<|startoftext|>", "<|endoftext|>"], initial_alphabet=alphabet,
        end_of_word_suffix="</w>", show_progress=False))
    t.post_processor = processors.RobertaProcessing(("<|endoftext|>", 1), ("<|startoftext|>", 0), trim_offsets=False,
                                                    add_prefix_space=False)
    return t


def bert(lines):
    t = Tokenizer(models.WordPiece(unk_token="[UNK]", max_input_chars_per_word=100))
    t.normalizer = normalizers.BertNormalizer(lowercase=True)
    t.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    t.decoder = decoders.WordPiece("##", cleanup=True)
    t.train_from_iterator(lines, trainers.WordPieceTrainer(
        vocab_size=500, special_tokens=["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"], show_progress=False))
    t.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=[("[CLS]", 2), ("[SEP]", 3)])
    t.add_tokens([AddedToken("Straße"), AddedToken("CAFÉ au lait", single_word=True)])
    return t


def modern(lines):
    """As Llama 3 and GPT-4: its pattern, whole words first, a Sequence of post-processors."""
    pattern = (r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
               r"|\s*[\r\n]+|\s+(?!\S)|\s+")
    t = Tokenizer(models.BPE(ignore_merges=True))
    t.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Split(Regex(pattern), "isolated"),
                                               pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])
    t.decoder = decoders.ByteLevel()
    t.train_from_iterator(lines, trainers.BpeTrainer(
        vocab_size=450, special_tokens=["<|begin|>", "<|end|>"],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()), show_progress=False))
    t.post_processor = processors.Sequence([
        processors.ByteLevel(trim_offsets=False),
        processors.TemplateProcessing(single="<|begin|> $A", pair="<|begin|> $A <|begin|> $B:1",
                                      special_tokens=[("<|begin|>", 0)])])
    t.enable_truncation(40)
    return t


def fallback(lines):
    """As Llama 2: no pre-tokenizer, spaces as a character, unknown characters as bytes."""
    space = "▁"
    t = Tokenizer(models.BPE(unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    t.normalizer = normalizers.Sequence([normalizers.Prepend(space), normalizers.Replace(" ", space)])
    t.pre_tokenizer = pre_tokenizers.Split(space, "merged_with_next")
    t.decoder = decoders.Sequence([decoders.Replace(space, " "), decoders.ByteFallback(), decoders.Fuse(),
                                   decoders.Strip(" ", 1, 0)])
    t.train_from_iterator(lines, trainers.BpeTrainer(
        vocab_size=500, special_tokens=["<unk>", "<s>", "</s>"] + ["<0x%02X>" % b for b in range(256)],
        limit_alphabet=60, show_progress=False))
    data = json.loads(t.to_str())
    data["pre_tokenizer"] = None
    data["added_tokens"] = [a for a in data["added_tokens"] if a["id"] < 3]
    t = Tokenizer.from_str(json.dumps(data))
    t.post_processor = processors.TemplateProcessing(single="<s> $A </s>", special_tokens=[("<s>", 1), ("</s>", 2)])
    return t


def unicode_forms(lines):
    """Every other step: normal forms, strip, accents, digits, punctuation, words."""
    t = Tokenizer(models.BPE(unk_token="[UNK]", continuing_subword_prefix="@@"))
    t.normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Strip(), normalizers.NFKD(),
                                         normalizers.StripAccents(), normalizers.Lowercase()])
    t.pre_tokenizer = pre_tokenizers.Sequence([
        pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Punctuation("contiguous"), pre_tokenizers.Digits(False),
        pre_tokenizers.Split("skin", "merged_with_previous"), pre_tokenizers.Whitespace()])
    t.train_from_iterator(lines, trainers.BpeTrainer(vocab_size=400, special_tokens=["[UNK]"], show_progress=False,
                                                     continuing_subword_prefix="@@", limit_alphabet=70))
    return t


def trained(lines):
    """What `triad tokenizer train` must make: the library's own trainer with the same settings."""
    t = ByteLevelBPETokenizer(add_prefix_space=False)
    t.train_from_iterator(lines, vocab_size=900, min_frequency=2, show_progress=False,
                          special_tokens=["<pad>", "<s>", "</s>"])
    t = Tokenizer.from_str(t.to_str())
    t.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", pair="<s> $A </s> $B </s>", special_tokens=[("<s>", 1), ("</s>", 2)])
    return t


KINDS = {f.__name__: f for f in (trained, gpt2, clip, bert, modern, fallback, unicode_forms)}

TEXTS = [
    "", " ", "  ", "\t", "\n", "a", " a", "a ", "  two  spaces   three ", "tab\tnew\nline\r\ncarriage\r", "x\u00a0y\u2003z\u3000w\u0085v",
    "grinning face with smiling eyes", "It's what I'd say; they've said we'll go, I'm sure you're IT'S THEY'VE",
    "medium-dark skin tone", "1234567890 3.14159 1,000,000 ½ ² Ⅷ ٣٤٥ 五", "👩‍👩‍👧‍👦 family 👨🏽‍🚒 firefighter 🏳️‍🌈 🇩🇪🇫🇷 1️⃣",
    "🧑🏿‍🤝‍🧑🏻", "e\u0301 vs é, A\u030a vs Å, q\u0307\u0323 q\u0323\u0307", "ｆｕｌｌｗｉｄｔｈ ﬁ ﬂ ſ ① ㎏ ℌ", "猫が窓のそばで眠っている。可愛い！", "我们学习 deep learning 的方法",
    "שָׁלוֹם עולם", "مرحبا بالعالم ١٢٣", "नमस्ते दुनिया", "한국어 문장 ㄱㅏ 각", "ไทย ภาษา", "Ünïcödé ß ẞ İ ı Ǆ ǅ ŉ", "ΑΣ ΣΑΣ όΣ",
    "\u0001\u0002\u001f\u007f\u0080\u009f control", "zero\u200bwidth\u200cnon\u200djoiner\ufeffbom\u00adsoft", "\ufffd replacement \ufffe\U0010ffff",
    "a" * 120, "ab" * 60, "supercalifragilisticexpialidocious" * 4, "x" * 99 + " " + "y" * 100 + " " + "z" * 101,
    "<s>", "</s>", "text <s> inside </s> text", "<pad><s></s>", "<mask>", "a <mask> b", "a  <mask>b", "<mask><mask>", "<unk> <UNK>",
    "<|startoftext|> a photo <|endoftext|>", "<|endoftext|><|ENDOFTEXT|>", "[CLS] hello [SEP] [MASK] [mask]", "[PAD][UNK]", "<|begin|>x<|end|>",
    "cat catnip cats concat cat. _cat cat_", "new york  city, NEW YORK, new  york", "straße STRASSE Straße", "café au lait, CAFÉ AU LAIT! cafe au laits",
    "!!!???...---___***", "don't do not can't won't . , ? ! ' s", "a,b;c:d(e)f[g]{h}<i>", "https://example.com/a_b?c=d&e=f#g user@host.org",
    "ĠĊ Ġhello </w> ## ##ing @@x ▁y ▁▁", "<0x41><0x0A> <0xE2><0x82><0xAC>", "skin skinskin askinb skin tone", "\"quoted\" 'single' `back`",
    "mixed　scripts：Ａ１ a1 あア漢", "\U0001faf8\U0001fae8 \U000323af\u1c89\ua7dc \U00016ea0 \U00010d40\U0001e030 \u32ff",
    "\u166d \u2e52\u2e5d \u1734a \u08e2b", "end with newline\n", "\n\n\n  \n x", "   leading", "trailing   ", "CamelCaseAndSNAKE_CASE", "O'Neil's d'd 'sx 'S",
]


def main():
    out = sys.argv[1] if len(sys.argv) > 1 else os.path.join(os.path.dirname(os.path.abspath(__file__)), "tokenizer")
    os.makedirs(out, exist_ok=True)
    lines = corpus()
    with open(os.path.join(out, "corpus.txt"), "w", encoding="utf-8", newline="\n") as f:
        f.write("\n".join(lines) + "\n")
    cases = {}
    for name, make in KINDS.items():
        t = make(lines)
        t.save(os.path.join(out, name + ".json"), pretty=False)
        cases[name] = [[s, t.encode(s).ids, t.decode(t.encode(s).ids, skip_special_tokens=False),
                        t.decode(t.encode(s).ids, skip_special_tokens=True)] for s in TEXTS]
    with open(os.path.join(out, "cases.json"), "w", encoding="ascii") as f:
        f.write("{\n" + ",\n".join(json.dumps(k) + ": [\n" + ",\n".join(
            json.dumps(c, separators=(",", ":")) for c in v) + "]" for k, v in cases.items()) + "\n}\n")


if __name__ == "__main__":
    main()
