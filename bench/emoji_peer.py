#!/usr/bin/env python3
"""Trains configs/emoji-peer.yaml by triad and by PyTorch (bench/peers/emoji.py), one after the other, and compares.

    bench/emoji_peer.py [--steps 330] [--threads 2] [--modes eager,compile] [--data data/emoji]
                        [--python build/venv/bin/python] [--triad build/triad] [--out build/bench]
    bench/emoji_peer.py --draw          the picture alone, from what is in build/bench/emoji

Both begin with the same weights, which triad draws and PyTorch is given, read the same folder with the same tokenizer, and
run pinned to the same cores. Before that, PyTorch's embeddings of all items are compared with triad's for the same weights.
Writes build/bench/emoji.json and docs/emoji-losses.svg. Rates are medians over windows of ten steps; the first pass over
the data, in which triad decodes it while it trains, is in the seconds and in the data's share. PyTorch finds its data
decoded in memory, and that time is not counted. Needs no package but the peer's own.
"""
import argparse
import json
import math
import os
import shutil
import statistics
import subprocess
import sys
import time
from xml.sax.saxutils import escape

from compare import header, pinned, write

CONFIG = "configs/emoji-peer.yaml"
# glibc gives freed memory back to the kernel and faults it in again each step; PyTorch is faster where it keeps it.
KEEP_MEMORY = dict(MALLOC_MMAP_THRESHOLD_="4294967296", MALLOC_TRIM_THRESHOLD_="8589934592", MALLOC_TOP_PAD_="268435456")
MOST_APART = 5e-5  # of embeddings, unit vectors: frames are kept as halves by both, rounded from sums in another order


def run(words, threads, **more):
    """Standard output; ends the program where it fails."""
    print("   ", " ".join(words), file=sys.stderr)
    done = subprocess.run(pinned(threads) + words, stdout=subprocess.PIPE, text=True,
                          env=dict(os.environ, OMP_NUM_THREADS=str(threads), **more))  # fmt: skip
    if done.returncode:
        sys.exit(f"emoji_peer: {words[0]} failed ({done.returncode})")
    return done.stdout


def records(path):
    with open(path) as f:
        return [json.loads(line) for line in f]


def summary(o, name, log):
    """From records of steps, ten steps each, and of measurements (no loss)."""
    lines = [r for r in records(log) if "loss" in r]
    r1 = {k: v for r in records(log) if "loss" not in r for k, v in r.items() if k.endswith("R@1")}
    seconds = [b["seconds"] - a["seconds"] for a, b in zip([dict(seconds=0)] + lines, lines)]
    return dict(program=name, steps=lines[-1]["step"], seconds=round(lines[-1]["seconds"], 2),
                samples_per_s=round(statistics.median(r["samples_per_s"] for r in lines), 1),
                overall_samples_per_s=round(lines[-1]["step"] * o.batch / lines[-1]["seconds"], 1),
                data_share=round(sum(s * r["share/data"] for s, r in zip(seconds, lines)) / sum(seconds), 4),
                loss=round(statistics.mean(r["loss"] for r in lines[-3:]), 4), r1=r1,
                curve=[[r["step"], round(r["seconds"], 3), round(r["loss"], 5)] for r in lines])  # fmt: skip


def triad(o, out, *more):
    shutil.rmtree(out, ignore_errors=True)
    run([o.triad, "train", CONFIG, f"data.manifest={o.data}/manifest.jsonl", f"train.threads={o.threads}",
         f"train.batch={o.batch}", f"train.seed={o.seed}", f"train.out={out}", *more], o.threads)  # fmt: skip


def torch(o, start, *more):
    words = [o.python, "bench/peers/emoji.py", o.data, f"{start}/tokenizer.text.json", "--cache", f"{o.work}/decoded.pt",
             "--weights", f"{start}/checkpoints/step-1/model.safetensors", "--threads", str(o.threads)]  # fmt: skip
    return json.loads(run(words + list(more), o.threads, **KEEP_MEMORY).splitlines()[-1])


def compare(o):
    start, ours = f"{o.work}/start", f"{o.work}/triad"
    triad(o, start, "train.steps=1", "optim.lr=1e-30", "data.valid=[]")  # a step that changes nothing: the first weights
    run([o.triad, "embed", start, f"{o.data}/manifest.jsonl", "-o", f"{o.work}/start.safetensors"], o.threads)
    checked = torch(o, start, "--check", f"{o.work}/start.safetensors")
    if not max(checked["differences"].values()) < MOST_APART:
        sys.exit(f"emoji_peer: the same weights embed differently: {checked['differences']}")
    triad(o, ours, f"train.steps={o.steps}", "train.log_every=10")
    result = dict(header(o), batch=o.batch, parameters=checked["parameters"], differences=checked["differences"])
    result["runs"] = [summary(o, "triad", f"{ours}/metrics.jsonl")]
    for mode in o.modes.split(","):
        log = f"{o.work}/torch-{mode}.jsonl"
        theirs = torch(o, start, "--steps", str(o.steps), "--batch", str(o.batch), "--seed", str(o.seed), "--mode", mode,
                       "--log", log, "--evaluate")  # fmt: skip
        s = summary(o, theirs["program"], log)
        result["runs"].append(dict(s, mode=mode, r1=theirs["r1"], prepare_s=theirs["prepare_s"]))
    best = max(result["runs"][1:], key=lambda r: r["samples_per_s"])
    result["ratio"] = round(result["runs"][0]["samples_per_s"] / best["samples_per_s"], 3)
    result["overall_ratio"] = round(result["runs"][0]["overall_samples_per_s"] / best["overall_samples_per_s"], 3)
    write(o, "emoji.json", result)
    return result


# ---- the picture -----------------------------------------------------------------------------------------------------


def round_steps(most, parts):
    """Values from 0 to `most` at about so many round distances."""
    raw = most / parts
    size = 10 ** math.floor(math.log10(raw))
    each = next(size * k for k in (1, 2, 2.5, 5, 10) if size * k >= raw)
    return [i * each for i in range(int(most / each + 1e-9) + 1)]


def panel(x, y, width, height, lines, title, top):
    """Lines are (colour, [(x, y), ..]) with y in 0..top."""
    most = max(p[0] for _, points in lines for p in points)
    px = lambda v: x + v / most * width  # noqa: E731
    py = lambda v: y + height - v / top * height  # noqa: E731
    out = []
    for v in round_steps(top, 5):
        out.append(f'<path d="M{x} {py(v):.1f}h{width}" stroke="#ddd"/>')
        out.append(f'<text x="{x - 6}" y="{py(v) + 4:.1f}" text-anchor="end" fill="#555">{v:g}</text>')
    for v in round_steps(most, 5):
        out.append(f'<path d="M{px(v):.1f} {y + height}v4" stroke="#777"/>')
        out.append(f'<text x="{px(v):.1f}" y="{y + height + 18}" text-anchor="middle" fill="#555">{v:g}</text>')
    out.append(f'<path d="M{x} {y}v{height}h{width}" fill="none" stroke="#777"/>')
    out.append(f'<text x="{x + width / 2}" y="{y + height + 36}" text-anchor="middle" fill="#222">{escape(title)}</text>')
    for colour, points in lines:
        d = " ".join(f"{px(a):.1f},{py(min(b, top)):.1f}" for a, b in points)
        out.append(f'<polyline points="{d}" fill="none" stroke="{colour}" stroke-width="1.8" stroke-linejoin="round"/>')
    return out


def draw(result, path):
    width, height, colours = 860, 360, ["#2f6fb0", "#c0392b", "#d08a2a"]
    runs = result["runs"]
    top = 1.05 * max(p[2] for r in runs for p in r["curve"])
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" viewBox="0 0 {width} {height}" '
        'font-family="sans-serif" font-size="13">',
        f'<rect width="{width}" height="{height}" fill="#ffffff"/>',
        f'<text x="12" y="26" font-size="15" fill="#222">loss of one and the same model, batch {result["batch"]}</text>',
    ]
    at = 12
    for r, colour in zip(runs, colours):
        name = r["program"].split("+")[0].replace("torch", "PyTorch") + (f" ({r['mode']})" if "mode" in r else "")
        label = f"{name}: {r['samples_per_s']:.0f} samples/s"
        parts.append(f'<path d="M{at} 45h22" stroke="{colour}" stroke-width="3"/>')
        parts.append(f'<text x="{at + 28}" y="49" fill="#222">{escape(label)}</text>')
        at += 50 + 7.2 * len(label)
    by_step = [(c, [(p[0], p[2]) for p in r["curve"]]) for r, c in zip(runs, colours)]
    by_time = [(c, [(p[1], p[2]) for p in r["curve"]]) for r, c in zip(runs, colours)]
    parts += panel(46, 70, 360, 240, by_step, "steps", top) + panel(474, 70, 360, 240, by_time, "seconds", top)
    with open(path, "w") as f:
        f.write("\n".join(parts + ["</svg>"]) + "\n")
    print(f"{path} written", file=sys.stderr)


def show(result):
    for r in result["runs"]:
        mode = f" {r['mode']}" if "mode" in r else ""
        print(f"{r['program'] + mode:28} {r['steps']:5} steps {r['seconds']:8.1f} s {r['samples_per_s']:7.1f} samples/s "
              f"(overall {r['overall_samples_per_s']:.1f}) data {100 * r['data_share']:4.1f} % loss {r['loss']:.3f}")  # fmt: skip
    print(f"ratio {result['ratio']:.2f} by medians, {result['overall_ratio']:.2f} overall")


def main():
    p = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    p.add_argument("--steps", type=int, default=330)
    p.add_argument("--batch", type=int, default=128)
    p.add_argument("--seed", type=int, default=0)
    p.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    p.add_argument("--modes", default="eager", help="of PyTorch: eager, compile, or both with a comma")
    p.add_argument("--data", default="data/emoji")
    p.add_argument("--python", default="build/venv/bin/python")
    p.add_argument("--triad", default="build/triad")
    p.add_argument("--out", default="build/bench")
    p.add_argument("--picture", default="docs/emoji-losses.svg")
    p.add_argument("--draw", action="store_true", help="the picture alone, from the results that are there")
    o = p.parse_args()
    o.work = os.path.join(o.out, "emoji")
    os.makedirs(o.work, exist_ok=True)
    if o.draw:
        with open(os.path.join(o.out, "emoji.json")) as f:
            result = json.load(f)
    else:
        result = compare(o)
    draw(result, o.picture)
    show(result)


if __name__ == "__main__":
    main()
