#!/usr/bin/env python3
"""The rows of triad's bench in PyTorch: one row a process, one line of JSON.

    torch_peer.py ROW [--mode eager|compile] [--pad 77|longest] [--steps N] [--warmup N] [--threads N]

A step is what triad's is: gradients cleared, forward, loss, backward, AdamW, on fixed random input in f32. PyTorch gets
the settings that serve it best: fused AdamW, channels-last images for convolutions, attention by its fused kernel,
gradients set to none, no dropout. Text travels padded, since its models know nothing else: to CLIP's 77 tokens, or to the
longest caption of the batch. Fields: docs/performance.md.
"""
import argparse
import json
import statistics
import time

STARTED = time.clock_gettime(time.CLOCK_BOOTTIME)

import torch  # noqa: E402  (the clock starts before the import, which users wait for too)
from torch import nn  # noqa: E402
from torch.nn import functional as F  # noqa: E402

ROWS = {}


def row(f):
    ROWS[f.__name__] = f
    return f


def peak_mb():
    """This process's own peak; getrusage would show a parent's that was larger."""
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) for line in status if line.startswith("VmHWM")) / 1024


def caption_lengths(n, mean=12.5, deviation=2.6, least=7, most=32):
    """The middles of n equal parts of a normal distribution, as bench/row.h has them."""
    normal = statistics.NormalDist(mean, deviation)
    lengths = [round(min(max(normal.inv_cdf((i + 0.5) / n), least), most)) for i in range(n)]
    order = torch.randperm(n, generator=torch.Generator().manual_seed(1)).tolist()
    return [lengths[i] for i in order]


class Job:
    """A model, the loss of one step, and whether an update follows it."""

    def __init__(self, parameters, loss, update=True):
        self.parameters = list(parameters)
        self.loss = loss
        self.optimizer = torch.optim.AdamW(self.parameters, lr=1e-4, weight_decay=0.1, fused=True) if update else None

    def step(self):
        if self.loss is not None:
            for p in self.parameters:
                p.grad = None
            self.loss().backward()
        if self.optimizer is not None:
            self.optimizer.step()


def clip(options, batch, embed, vision, text):
    import open_clip

    lengths = caption_lengths(batch)
    width = 77 if options.pad == "77" else max(lengths)
    model = open_clip.model.CLIP(embed, vision, dict(text, context_length=width), output_dict=False)
    criterion = open_clip.ClipLoss()
    last = text["vocab_size"] - 1
    tokens = torch.zeros(batch, width, dtype=torch.long)
    for line, n in zip(tokens, lengths):
        line[: n - 1] = torch.randint(1, last, (n - 1,))
        line[n - 1] = last  # open_clip pools where the largest number stands
    images = torch.randn(batch, 3, vision["image_size"], vision["image_size"])

    def loss():
        image, caption, scale = model(images, tokens)
        return criterion(image, caption, scale)

    return Job(model.parameters(), loss)


@row
def clip_small(options):
    return clip(
        options, 64, 256,
        dict(image_size=128, patch_size=16, layers=6, width=256, head_width=64),
        dict(vocab_size=8192, layers=6, width=256, heads=4),
    )  # fmt: skip


@row
def clip_b32(options):
    return clip(
        options, 16, 512,
        dict(image_size=224, patch_size=32, layers=12, width=768),
        dict(vocab_size=49408, layers=12, width=512, heads=8),
    )  # fmt: skip


def classifier(model, layout=torch.contiguous_format, batch=16, size=224):
    model = model.to(memory_format=layout)
    images = torch.randn(batch, 3, size, size).to(memory_format=layout)
    labels = torch.randint(0, 1000, (batch,))
    return Job(model.parameters(), lambda: F.cross_entropy(model(images), labels))


@row
def vit_s16(options):
    import timm

    return classifier(timm.create_model("vit_small_patch16_224"))


@row
def resnet50(options):
    import torchvision

    return classifier(torchvision.models.resnet50(), torch.channels_last)


@row
def efficientnet_b0(options):
    import torchvision

    return classifier(torchvision.models.efficientnet_b0(dropout=0.0, stochastic_depth_prob=0.0), torch.channels_last)


@row
def gpt(options):
    import transformers

    none = dict(resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0)
    config = transformers.GPT2Config(vocab_size=16384, n_positions=256, n_embd=512, n_layer=8, n_head=8, **none)
    model = transformers.GPT2LMHeadModel(config).train()
    tokens = torch.randint(0, config.vocab_size, (8, 256))
    return Job(model.parameters(), lambda: model(tokens, labels=tokens).loss)


@row
def wav2vec2(options):
    import transformers

    none = ("hidden_dropout", "attention_dropout", "activation_dropout", "feat_proj_dropout", "final_dropout", "layerdrop")
    config = transformers.Wav2Vec2Config(
        vocab_size=32, ctc_loss_reduction="mean", apply_spec_augment=False, mask_time_prob=0.0, **dict.fromkeys(none, 0.0)
    )
    model = transformers.Wav2Vec2ForCTC(config).train()
    sound, labels = torch.randn(4, 64000), torch.randint(1, 32, (4, 40))
    return Job(model.parameters(), lambda: model(sound, labels=labels).loss)


@row
def infonce8192(options):
    a, b = (nn.Parameter(F.normalize(torch.randn(8192, 512), dim=1)) for _ in range(2))
    same = torch.arange(8192)

    def loss():
        logits = (20.0 * a) @ b.t()
        return 0.5 * (F.cross_entropy(logits, same) + F.cross_entropy(logits.t(), same))

    return Job([a, b], loss, update=False)


@row
def adamw(options):
    matrices = [nn.Parameter(torch.randn(1000, 1000)) for _ in range(50)]
    for p in matrices:
        p.grad = torch.randn_like(p)
    return Job(matrices, None)


class LogMel:
    parameters = []

    def __init__(self):
        self.sound, self.window, self.bank = torch.randn(1, 960000), torch.hann_window(400), torch.rand(201, 80)

    def loss(self):
        power = torch.stft(self.sound, 400, 160, window=self.window, return_complex=True).abs().square()
        return (power.transpose(1, 2) @ self.bank).clamp(min=1e-10).log()

    def step(self):
        self.loss()


@row
def logmel(options):
    return LogMel()


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("row", choices=sorted(ROWS))
    parser.add_argument("--mode", choices=["eager", "compile"], default="eager")
    parser.add_argument("--pad", choices=["77", "longest"], default="77", help="captions: to how many tokens")
    parser.add_argument("--steps", type=int, default=7)
    parser.add_argument("--warmup", type=int, default=1)
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()

    torch.manual_seed(0)
    torch.set_num_threads(options.threads)
    base = peak_mb()
    job = ROWS[options.row](options)
    if options.mode == "compile" and job.loss is not None:
        job.loss = torch.compile(job.loss)
    job.step()
    first = time.clock_gettime(time.CLOCK_BOOTTIME) - STARTED
    for _ in range(options.warmup):
        job.step()
    seconds = []
    for _ in range(options.steps):
        start = time.perf_counter()
        job.step()
        seconds.append(time.perf_counter() - start)
    total = peak_mb()
    result = dict(row=options.row, program="torch " + torch.__version__, mode=options.mode)
    if options.row.startswith("clip"):
        result["pad"] = options.pad
    result.update(
        median=float(f"{statistics.median(seconds):.5g}"), min=float(f"{min(seconds):.5g}"), steps=options.steps,
        threads=options.threads, peak_mb=round(total - base, 1), peak_total_mb=round(total, 1),
        first_step_s=round(first, 3), parameters=sum(p.numel() for p in job.parameters),
    )  # fmt: skip
    print(json.dumps(result))


if __name__ == "__main__":
    main()
