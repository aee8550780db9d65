#!/usr/bin/env python3
"""configs/emoji-peer.yaml in PyTorch: the same towers, data, augmentation, loss, optimizer and schedule.

    emoji.py DATA TOKENIZER.json --steps N [--weights model.safetensors] [--log metrics.jsonl] [--cache FILE] [--evaluate]
    emoji.py DATA TOKENIZER.json --weights model.safetensors --check embeddings.safetensors

DATA is the folder that `triad data emoji` makes; tokenizer, weights to begin with and embeddings to check against are
triad's own files. Modules bear the names of triad's parameters, so weights are taken over by name. What PyTorch cannot do
in the way triad does it: captions and clips travel padded to the longest of the batch. What serves it best: images
channels last, attention by its fused kernel, fused AdamW, batches cut out of decoded data in memory by a few indexings.
Prints one line of JSON; the log has triad's fields. Needs torch, tokenizers, safetensors, soundfile, pillow.
"""
import argparse
import json
import math
import os
import time

import numpy
import safetensors.torch
import soundfile
import tokenizers
import torch
from PIL import Image
from torch import nn
from torch.nn import functional as F

RATE, LONGEST, BINS = 16000, 4 * 16000, 80  # Hz, samples, mel bins
STRIDES, TOKENS, WIDTH, EMBED = (2, 4), 48, 128, 128

# ---- data ------------------------------------------------------------------------------------------------------------


def mel_bank(fft=512, low=20.0, high=8000.0):
    """(fft/2 + 1, BINS): triangles with corners evenly spaced in mel, 2595 log10(1 + f/700)."""
    mel = torch.linspace(2595 * math.log10(1 + low / 700), 2595 * math.log10(1 + high / 700), BINS + 2, dtype=torch.float64)
    corner = 700 * (10 ** (mel / 2595) - 1)
    f = torch.linspace(0, RATE / 2, fft // 2 + 1, dtype=torch.float64)[:, None]
    a, b, c = corner[:-2], corner[1:-1], corner[2:]
    return torch.minimum((f - a) / (b - a), (c - f) / (c - b)).clamp(min=0).float()


def log_mel(path, bank, window):
    sound, rate = soundfile.read(path, dtype="float32")
    if rate != RATE:
        raise SystemExit(f"{path}: {rate} Hz, but the emoji data has {RATE}")
    spectrum = torch.stft(torch.from_numpy(sound[:LONGEST]), 512, 160, 400, window, return_complex=True)
    y = (spectrum.abs().square().T @ bank + 1e-6).log()
    return ((y - y.mean()) / (y.std() + 1e-5)).half()  # (frames, BINS)


class Data:
    """Everything decoded: images (N, 64, 64, 3) as bytes, captions as token ids, clips one behind the other as halves."""

    def __init__(self, folder, tokenizer, cache):
        with open(os.path.join(folder, "manifest.jsonl"), encoding="utf8") as f:
            self.items = [json.loads(line) for line in f]
        self.split = numpy.array([item["split"] for item in self.items])
        encode = tokenizers.Tokenizer.from_file(tokenizer).encode
        self.captions = [[self.cut(encode(text).ids) for text in item["text"]] for item in self.items]
        if not cache or not os.path.exists(cache):
            decoded = self.decode(folder)
            if cache:
                torch.save(decoded, cache)
        else:
            decoded = torch.load(cache)
        self.images, self.frames, self.lengths = decoded
        self.starts = self.lengths.cumsum(0) - self.lengths
        self.clips, self.unheard, n = [], [], 0  # rows of `lengths`: clips to train on, and the voice held out
        for item in self.items:
            rows = range(n, n + len(item["audio"]))
            self.clips.append([r for r, clip in zip(rows, item["audio"]) if clip["split"] == "train"])
            self.unheard.append(next(r for r, clip in zip(rows, item["audio"]) if clip["split"] != "train"))
            n += len(item["audio"])

    @staticmethod
    def cut(ids):
        return ids if len(ids) <= TOKENS else ids[: TOKENS - 1] + ids[-1:]

    def decode(self, folder):
        threads = torch.get_num_threads()
        torch.set_num_threads(1)  # the work of one clip is too small to be shared
        pixels = [numpy.asarray(Image.open(os.path.join(folder, i["image"])).convert("RGB")) for i in self.items]
        bank, window = mel_bank(), torch.hann_window(400)
        clips = [log_mel(os.path.join(folder, c["file"]), bank, window) for i in self.items for c in i["audio"]]
        torch.set_num_threads(threads)
        return torch.from_numpy(numpy.stack(pixels)), torch.cat(clips), torch.tensor([len(c) for c in clips])

    def pixels(self, items, shift=None, brightness=None):
        items, at = torch.as_tensor(items)[:, None, None], torch.arange(64)
        if shift is None:
            x = self.images[items[:, 0, 0]].float()
        else:  # what leaves on one side comes in on the other
            rows, columns = ((at - s[:, None]) % 64 for s in torch.from_numpy(shift))
            x = self.images[items, rows[:, :, None], columns[:, None, :]].float()
            x = (x * torch.from_numpy(brightness)[:, None, None, None]).clamp_(0, 255)
        return ((x / 255 - 0.5) / 0.25).permute(0, 3, 1, 2)  # (B, 3, 64, 64), channels last in memory

    def tokens(self, captions):
        out = torch.zeros(len(captions), max(map(len, captions)), dtype=torch.long)
        for row, ids in zip(out, captions):
            row[: len(ids)] = torch.tensor(ids)
        return out, torch.tensor([len(ids) for ids in captions])

    def sound(self, rows):
        rows = torch.tensor(rows)
        n = self.lengths[rows]
        at = torch.arange(int(n.max()))
        x = self.frames[(self.starts[rows][:, None] + at).clamp(max=len(self.frames) - 1)].float()
        return x.mul_((at < n[:, None])[..., None]), n

    def batch(self, items, random):
        n = len(items)
        shift = random.integers(-6, 7, (2, n))
        x = self.pixels(items, shift, random.uniform(0.8, 1.2, n).astype("float32"))
        captions = [self.captions[i] for i in items]
        captions = [c[0] if random.random() < 0.6 else c[random.integers(len(c))] for c in captions]
        clips = [self.clips[i] for i in items]
        return x, *self.tokens(captions), *self.sound([c[random.integers(len(c))] for c in clips])


# ---- model -----------------------------------------------------------------------------------------------------------


class Norm2d(nn.Module):
    """A convolution without bias and its batch norm."""

    def __init__(self, into, out, stride):
        super().__init__()
        self.conv, self.norm = nn.Conv2d(into, out, 3, stride, 1, bias=False), nn.BatchNorm2d(out)

    def forward(self, x):
        return self.norm(self.conv(x))


class Residual(nn.Module):
    def __init__(self, into, out, stride):
        super().__init__()
        self.a, self.b = Norm2d(into, out, stride), Norm2d(out, out, 1)
        self.shortcut = nn.Conv2d(into, out, 1, stride, bias=False) if stride > 1 or into != out else nn.Identity()

    def forward(self, x):
        return F.relu(self.shortcut(x) + self.b(F.relu(self.a(x))))


class Pictures(nn.Module):
    def __init__(self, widths=(32, 64, 128, 256)):
        super().__init__()
        self.stem = nn.Conv2d(3, widths[0], 4, 4)
        self.stage = nn.ModuleList(
            nn.ModuleList([Residual(widths[max(0, i - 1)], w, 1 if i == 0 else 2)]) for i, w in enumerate(widths)
        )
        self.project = nn.Linear(widths[-1], EMBED)

    def forward(self, x):
        x = self.stem(x)
        for (block,) in self.stage:
            x = block(x)
        return F.normalize(self.project(x.mean((2, 3))), dim=1)


class Attention(nn.Module):
    def __init__(self, heads=4):
        super().__init__()
        self.heads, self.qkv, self.out = heads, nn.Linear(WIDTH, 3 * WIDTH), nn.Linear(WIDTH, WIDTH)

    def forward(self, x, mask):
        b, t, d = x.shape
        q, k, v = self.qkv(x).view(b, t, 3, self.heads, d // self.heads).permute(2, 0, 3, 1, 4)
        return self.out(F.scaled_dot_product_attention(q, k, v, attn_mask=mask).transpose(1, 2).reshape(b, t, d))


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.norm1, self.norm2, self.attention = nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH), Attention()
        self.mlp = nn.ModuleDict(dict(up=nn.Linear(WIDTH, 4 * WIDTH), down=nn.Linear(4 * WIDTH, WIDTH)))

    def forward(self, x, mask):
        x = x + self.attention(self.norm1(x), mask)
        return x + self.mlp["down"](F.gelu(self.mlp["up"](self.norm2(x))))


class Sequence(nn.Module):
    """Positions, three blocks, a norm, the mean over what is not padding, a projection."""

    def __init__(self, longest):
        super().__init__()
        self.position, self.block = nn.Embedding(longest, WIDTH), nn.ModuleList(Block() for _ in range(3))
        self.norm, self.project = nn.LayerNorm(WIDTH), nn.Linear(WIDTH, EMBED)

    def embed(self, x, lengths):
        there = torch.arange(x.shape[1]) < lengths[:, None]  # (B, T)
        x = x + self.position.weight[: x.shape[1]]
        for block in self.block:
            x = block(x, there[:, None, None, :])
        x = (self.norm(x) * there[..., None]).sum(1) / lengths[:, None]
        return F.normalize(self.project(x), dim=1)


class Captions(Sequence):
    def __init__(self, vocabulary):
        super().__init__(TOKENS)
        self.token = nn.Embedding(vocabulary, WIDTH)

    def forward(self, ids, lengths):
        return self.embed(self.token(ids), lengths)


class Speech(Sequence):
    def __init__(self):
        super().__init__(self.shortened(1 + LONGEST // 160))
        self.stem = nn.ModuleList(  # of height 1: faster than Conv1d
            [nn.Conv2d(BINS, WIDTH, (1, 3), (1, 2), (0, 1)), nn.Conv2d(WIDTH, WIDTH, (1, 5), (1, 4), (0, 2))]
        )

    @staticmethod
    def shortened(n):
        for stride in STRIDES:
            n = (n + stride - 1) // stride
        return n

    def forward(self, frames, lengths):
        """Behind a clip's end the first convolution leaves its bias, which the second one sees; triad's packed clips have
        zeros there. So what lies behind the end is cleared between the two."""
        x = F.gelu(self.stem[0](frames[:, None].permute(0, 3, 1, 2)))  # (B, D, 1, T)
        x = x * (torch.arange(x.shape[3]) < ((lengths + 1) // 2)[:, None])[:, None, None]
        x = F.gelu(self.stem[1](x))[:, :, 0].transpose(1, 2)
        return self.embed(x, self.shortened(lengths))


class Model(nn.Module):
    def __init__(self, vocabulary):
        super().__init__()
        self.image, self.text, self.speech = Pictures(), Captions(vocabulary), Speech()
        self.loss = nn.ParameterDict(dict(scale=nn.Parameter(torch.tensor(math.log(1 / 0.07)))))
        self.begin()

    def begin(self):
        """Normal weights with triad's deviations, biases zero."""
        for name, m in self.named_modules():
            if isinstance(m, nn.Embedding):
                nn.init.normal_(m.weight, std=0.02)
            elif isinstance(m, (nn.Linear, nn.Conv2d)):
                into = m.weight[0].numel()
                std = math.sqrt(1 / into)
                if name.endswith(("attention.out", "mlp.down")):
                    std *= math.sqrt(1 / 6)  # 2 branches of 3 blocks
                elif name.startswith("image") and isinstance(m, nn.Conv2d):
                    std = math.sqrt(2 / (m.weight.shape[0] * m.weight[0, 0].numel()))
                nn.init.normal_(m.weight, std=std)
                if m.bias is not None:
                    nn.init.zeros_(m.bias)

    def take(self, path, statistics):
        """triad's parameters: matrices are (in, out), convolutions (kernel, .., in, out). Its running statistics as well?"""
        given = safetensors.torch.load_file(path)
        for name, m in self.named_modules():
            for part, mine in [*m.named_parameters(prefix=name, recurse=False), *m.named_buffers(prefix=name, recurse=False)]:
                if part.endswith("num_batches_tracked") or ("running_" in part and not statistics):
                    continue
                x = given.pop(part)
                if not isinstance(m, nn.Embedding) and x.ndim > 1:
                    x = x.permute(*range(x.ndim - 1, x.ndim - 3, -1), *range(x.ndim - 2))
                if x.ndim == 3:
                    x = x[:, :, None]  # of height 1 here
                if x.shape != mine.shape:
                    raise SystemExit(f"{path}: {part} is {tuple(x.shape)}, but the model here has {tuple(mine.shape)}")
                mine.data.copy_(x)
        left = [name for name in given if "running_" not in name]
        if left:
            raise SystemExit(f"{path}: the model here has no {left[0]}")

    def forward(self, pixels, ids, id_lengths, frames, frame_lengths):
        i, t, s = self.image(pixels), self.text(ids, id_lengths), self.speech(frames, frame_lengths)
        scale, same = self.loss["scale"].clamp(0, math.log(100)).exp(), torch.arange(len(i))
        total = 0
        for a, b in ((i, t), (i, s), (t, s)):
            logits = scale * a @ b.T
            total = total + F.cross_entropy(logits, same) + F.cross_entropy(logits.T, same)
        return total / 6


# ---- training --------------------------------------------------------------------------------------------------------


def train(model, data, o):
    decay = [p for p in model.parameters() if p.ndim > 1]
    rest = [p for p in model.parameters() if p.ndim <= 1]  # biases, norms, the temperature
    groups = [dict(params=decay, weight_decay=0.1), dict(params=rest, weight_decay=0.0)]
    optimizer = torch.optim.AdamW(groups, lr=2e-3, betas=(0.9, 0.98), fused=True)
    loss_of = torch.compile(model, dynamic=True) if o.mode == "compile" else model
    items, random = numpy.flatnonzero(data.split == "train"), numpy.random.default_rng(o.seed)
    each, rates, waited, all_waited, log = len(items) // o.batch, [], 0.0, 0.0, open(o.log, "w") if o.log else None
    model.train()
    began = since = time.perf_counter()
    for step in range(o.steps):
        now = time.perf_counter()
        if step % each == 0:
            order = random.permutation(items)
        at = step % each * o.batch
        batch = data.batch(order[at : at + o.batch], random)
        waited += time.perf_counter() - now
        lr = 2e-3 * min(1, (step + 1) / 50) * 0.5 * (1 + math.cos(math.pi * step / o.steps))
        for group in optimizer.param_groups:
            group["lr"] = lr
        optimizer.zero_grad(set_to_none=True)
        loss = loss_of(*batch)
        loss.backward()
        norm = nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        if (step + 1) % 10 == 0 or step + 1 == o.steps:
            now = time.perf_counter()
            rates.append((step % 10 + 1) * o.batch / (now - since))
            if log:
                line = dict(step=step + 1, epoch=step // each, loss=loss.item(), scale=model.loss["scale"].exp().item(), lr=lr,
                            grad_norm=norm.item(), samples_per_s=rates[-1], seconds=now - began)  # fmt: skip
                line["share/data"] = waited / (now - since)
                log.write(json.dumps(line) + "\n")
                log.flush()
            all_waited, waited, since = all_waited + waited, 0.0, time.perf_counter()
    took = time.perf_counter() - began
    return dict(steps=o.steps, seconds=round(took, 2), samples_per_s=round(float(numpy.median(rates)), 1),
                data_share=round(all_waited / took, 4), loss=loss.item())  # fmt: skip


@torch.no_grad()
def embeddings(model, data, items):
    """By name: images, first captions, each item's first clip of a voice heard, and its clip of the unheard one."""
    model.eval()
    parts = [items[i : i + 128] for i in range(0, len(items), 128)]
    make = dict(
        image=lambda p: model.image(data.pixels(p)),
        text=lambda p: model.text(*data.tokens([data.captions[i][0] for i in p])),
        speech=lambda p: model.speech(*data.sound([data.clips[i][0] for i in p])),
        unheard=lambda p: model.speech(*data.sound([data.unheard[i] for i in p])),
    )
    return {name: torch.cat([f(p) for p in parts]) for name, f in make.items()}


def evaluate(model, data):
    """R@1 under the names of triad's records, all items of the split as candidates."""
    result = {}
    for split in ("compositions", "concepts"):
        e = embeddings(model, data, numpy.flatnonzero(data.split == split))
        for a, b in (("text", "image"), ("image", "text"), ("speech", "image"), ("unheard", "image"), ("unheard", "text")):
            s = e[a] @ e[b].T
            name = f"{split}/voices/speech->{b} R@1" if a == "unheard" else f"{split}/{a}->{b} R@1"
            result[name] = round(((s > s.diagonal()[:, None]).sum(1) == 0).float().mean().item(), 4)
    return result


def check(model, data, path):
    """The largest difference to embeddings that triad made of all items with the same weights."""
    theirs, mine = safetensors.torch.load_file(path), embeddings(model, data, numpy.arange(len(data.items)))
    return {name: float(f"{(mine[name] - theirs[name]).abs().max().item():.3g}") for name in ("image", "text", "speech")}


def main():
    p = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    p.add_argument("data")
    p.add_argument("tokenizer")
    p.add_argument("--steps", type=int, default=0)
    p.add_argument("--batch", type=int, default=128)
    p.add_argument("--seed", type=int, default=0)
    p.add_argument("--threads", type=int, default=2)
    p.add_argument("--mode", choices=["eager", "compile"], default="eager")
    p.add_argument("--weights", help="triad's model.safetensors to begin with")
    p.add_argument("--log", help="metrics as JSON lines, each 10 steps")
    p.add_argument("--cache", help="where decoded data is kept")
    p.add_argument("--evaluate", action="store_true", help="R@1 at the end")
    p.add_argument("--check", metavar="FILE", help="compare with `triad embed`'s output for the same weights")
    o = p.parse_args()
    torch.manual_seed(o.seed)
    torch.set_num_threads(o.threads)
    began = time.perf_counter()
    data = Data(o.data, o.tokenizer, o.cache)
    result = dict(program="torch " + torch.__version__, mode=o.mode, prepare_s=round(time.perf_counter() - began, 2))
    model = Model(tokenizers.Tokenizer.from_file(o.tokenizer).get_vocab_size()).to(memory_format=torch.channels_last)
    if o.weights:
        model.take(o.weights, statistics=o.check is not None)
    towers = dict(image=model.image, text=model.text, speech=model.speech)
    result["parameters"] = {n: sum(p.numel() for p in m.parameters()) for n, m in towers.items()}
    if o.check:
        result["differences"] = check(model, data, o.check)
    if o.steps:
        result.update(train(model, data, o))
    if o.evaluate:
        result["r1"] = evaluate(model, data)
    print(json.dumps(result))


if __name__ == "__main__":
    main()
