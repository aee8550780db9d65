#!/usr/bin/env python3
"""Writes docs/performance.md and its bars from the results in build/bench (triad.json, peers.json, backends.json, emoji.json; the
curves of the last are drawn by bench/emoji_peer.py).

    bench/page.py [build/bench]

The numbers are the results'; the sentences between `<!-- why NAME -->` and `<!-- end -->` are people's and stay as they are, and
so does a part whose results are not there.
"""
import json
import os
import re
import statistics
import sys
from xml.sax.saxutils import escape

PAGE = "docs/performance.md"
GOALS = dict(clip_small=("3.5 (77), 2.1 (longest)", 0.6), clip_b32=("2.2 (77), 1.2 (longest)", 0.75), vit_s16=("1.25", 0.6),
             gpt=("1.45", 0.6), resnet50=("1.6", 0.6), efficientnet_b0=("2.5", 0.6), wav2vec2=("1.5", 0.75),
             infonce8192=("1.3", 0.6), adamw=("1.0", 1.0), logmel=("1.3", 0.6))  # fmt: skip
GOALS["adamw+state=bf16"] = ("1.4", 1.0)


def load(folder, name):
    path = os.path.join(folder, name)
    if not os.path.exists(path):
        return None
    with open(path) as f:
        return json.load(f)


def kept_sentences():
    if not os.path.exists(PAGE):
        return {}
    with open(PAGE) as f:
        return dict(re.findall(r"<!-- why (\S+) -->\n(.*?)<!-- end -->", f.read(), re.S))


def kept_parts(*headings):
    """What the page has had under these headings."""
    if not os.path.exists(PAGE):
        return []
    with open(PAGE) as f:
        parts = re.split(r"^(?=## )", f.read(), flags=re.M)
    return [part.rstrip("\n") + "\n" for part in parts if part.partition("\n")[0][3:] in headings]


def table(head, rows):
    align = ["---"] + ["--:"] * (len(head) - 1)
    lines = [head, align] + [[str(x) for x in r] for r in rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines) + "\n"


def seconds(x):
    return f"{x:.2f}" if x >= 1 else f"{x:.3f}" if x >= 0.1 else f"{x:.4f}"


# ---- pictures --------------------------------------------------------------------------------------------------------


class Picture:
    LEFT, WIDTH, BAR, GAP = 195, 760, 20, 10

    def __init__(self, title, rows, most):
        self.scale = (self.WIDTH - self.LEFT - 190) / most
        self.height = 56 + rows * (self.BAR + self.GAP) + 26
        self.parts = [
            f'<svg xmlns="http://www.w3.org/2000/svg" width="{self.WIDTH}" height="{self.height}" '
            f'viewBox="0 0 {self.WIDTH} {self.height}" font-family="sans-serif" font-size="13">',
            f'<rect width="{self.WIDTH}" height="{self.height}" fill="#ffffff"/>',
            f'<text x="12" y="26" font-size="15" fill="#222">{escape(title)}</text>',
        ]
        self.y = 48

    def bar(self, name, value, label, mark=None):
        width = max(1.0, value * self.scale)
        middle = self.y + self.BAR - 5
        self.parts.append(f'<text x="{self.LEFT - 8}" y="{middle}" text-anchor="end" fill="#222">{escape(name)}</text>')
        self.parts.append(f'<rect x="{self.LEFT}" y="{self.y}" width="{width:.1f}" height="{self.BAR}" fill="#2f6fb0"/>')
        end = width
        if mark is not None:
            x = self.LEFT + mark * self.scale
            if mark * self.scale < width + 50:  # the label would stand on the mark
                end = max(width, mark * self.scale)
            self.parts.append(f'<path d="M{x:.1f} {self.y - 3}v{self.BAR + 6}" stroke="#c0392b" stroke-width="2"/>')
        self.parts.append(f'<text x="{self.LEFT + end + 6:.1f}" y="{middle}" fill="#222">{escape(label)}</text>')
        self.y += self.BAR + self.GAP

    def line(self, value, label):
        x = self.LEFT + value * self.scale
        self.parts.append(f'<path d="M{x:.1f} 40V{self.height - 24}" stroke="#777" stroke-dasharray="4 3"/>')
        self.parts.append(f'<text x="{x:.1f}" y="{self.height - 8}" text-anchor="middle" fill="#555">{escape(label)}</text>')

    def write(self, path):
        with open(path, "w") as f:
            f.write("\n".join(self.parts + ["</svg>"]) + "\n")


def draw_ratios(peers):
    rows = [(name, r["variants"][r["best"]], r["best"]) for name, r in peers["rows"].items() if r.get("best")]
    if not rows:
        return False
    most = 3  # one row far ahead would make all others look alike
    p = Picture("times as fast as PyTorch in its fastest mode", len(rows), most)
    for name, v, mode in rows:
        p.bar(name.replace("+", " "), min(v["ratio"], most), f"{v['ratio']:.2f}  ({mode}){' →' if v['ratio'] > most else ''}")
    p.line(1, "PyTorch")
    p.write("docs/bench-peers.svg")
    return True


def draw_roofline(alone):
    rows = [(n, r) for n, r in alone["rows"].items() if r["gflop"] > 1]
    if not rows:
        return False
    p = Picture("share of the multiply-add peak; the red mark is what the roofline allows", len(rows), 1)
    for name, r in rows:
        p.bar(name, r["share"], f"{100 * r['share']:.0f} %", min(1, r["gflop"] / r["limit_s"] / r["peak_gflops"]))
    p.line(0.75, "75 %")
    p.write("docs/bench-roofline.svg")
    return True


# ---- the page --------------------------------------------------------------------------------------------------------


def why(sentences, name):
    return f"<!-- why {name} -->\n{sentences.get(name, '')}<!-- end -->\n"


def machine_line(data):
    m = data["machine"]
    one, all_ = m["1"], m[str(data["threads"])]
    return (
        f"{data['cpu']}, {data['threads']} threads, {data['date']}: {one['gflops_1']:.0f} GF/s of multiply-adds on one "
        f"thread ({one['isa']}), {all_['gflops']:.0f} on {data['threads']}; memory copies {all_['copy_gb_s']:.0f} GB/s, "
        f"updates in place {all_['update_gb_s']:.0f}."
    )


def peers_part(peers, sentences):
    versions = {r["program"] for row in peers["rows"].values() for r in row["runs"] if r["program"] != "triad"}
    out = [
        "## Beside PyTorch\n",
        machine_line(peers) + "\n",
        f"The peer is {', '.join(sorted(versions)) or 'PyTorch'} with fused AdamW, channels-last convolutions and the same "
        "threads on the same cores, eager and compiled. The programs take turns; a ratio is PyTorch's median step over "
        "triad's in the same round, the median over rounds. `*` is PyTorch's fastest mode. Memory is the peak above the "
        "start (above the import, for PyTorch); first step is the time from the start of the process to the end of the "
        "first step, compilation included.\n",
    ]
    if draw_ratios(peers):
        out.append("![ratios](bench-peers.svg)\n")
    lines = []
    for name, r in peers["rows"].items():
        goal, memory = GOALS.get(name, ("", ""))
        for mode, v in r["variants"].items():
            star = " *" if mode == r["best"] else ""
            lines.append([name.replace("+", " "), mode + star, seconds(r["triad"]), seconds(v["median"]), f"{v['ratio']:.2f}", goal,
                          f"{r['triad_mb']:.0f}", f"{v['mb']:.0f}", f"{r['triad_mb'] / v['mb']:.2f}", memory,
                          f"{r['triad_first_s']:.1f}", f"{v['first_s']:.1f}"])  # fmt: skip
    head = ["row", "mode", "triad s", "PyTorch s", "ratio", "goal", "triad MB", "PyTorch MB", "share", "goal", "first s",
            "PyTorch first s"]  # fmt: skip
    return out + [table(head, lines), why(sentences, "peers")]


def roofline_part(alone, sentences):
    out = [
        "## The roofline of each row\n",
        machine_line(alone) + "\n",
        "Arithmetic and bytes are what a step needs: each op's operations, its inputs and outputs once. The limit is, "
        "summed over the calls, the longer of operations at the peak and bytes at the memory's speed; values that stay in "
        "a cache can be faster than that. A row is the best of several runs that took turns with runs on one thread; "
        "`x of 1` is one thread's fastest step over that of all threads, the median over the turns.\n",
    ]
    if draw_roofline(alone):
        out.append("![shares of the peak](bench-roofline.svg)\n")
    lines = []
    for name, r in alone["rows"].items():
        planned = r["state_mb"] + r["plan_mb"] + r["input_mb"]
        lines.append([name, f"{r['gflop']:.4g}", f"{r['gbytes']:.3g}", seconds(r["limit_s"]), seconds(r["median"]),
                      f"{r['gflops']:.0f}", f"{100 * r['share']:.0f}", f"{100 * r['of_limit']:.0f}",
                      f"{r['gain']:.2f}" if r["gain"] else "", f"{planned:.0f}", f"{r['peak_mb']:.0f}"])  # fmt: skip
    head = ["row", "GFLOP", "GB", "limit s", "step s", "GF/s", "% of peak", "% of limit", "x of 1", "planned MB", "peak MB"]
    return out + [table(head, lines), why(sentences, "roofline")]


def lost_part(alone, sentences):
    out = ["## Where the rest is lost\n",
           "The ops with at least 3 % of a step's time; `lost` is the time beyond the roofline, as a share of the step.\n"]  # fmt: skip
    for name, r in alone["rows"].items():
        out.append(f"### {name}\n")
        lines = []
        for op in r.get("ops", []):
            if op["time"] < 0.03:
                continue
            s, total = op["s"], op["s"] / op["time"]
            lines.append([f"{op['op']} ({op['kernel']})", op["calls"], f"{1e3 * s:.1f}", f"{100 * op['time']:.0f}",
                          f"{op['gflop'] / s:.3g}", f"{op['gbytes'] / s:.3g}", f"{100 * op['limit_s'] / s:.0f}",
                          f"{100 * max(0, s - op['limit_s']) / total:.0f}"])  # fmt: skip
        if lines:
            out.append(table(["op", "calls", "ms", "% of the step", "GF/s", "GB/s", "% of limit", "lost %"], lines))
        out.append(why(sentences, name))
    return out


def gemm_part(alone, sentences):
    rows = alone.get("gemm")
    if not rows:
        return []
    lines = [[g["name"], g["m"], g["n"], g["k"], f"{g['gflops']:.0f}", f"{100 * g['share']:.0f}", f"{g['blas_gflops']:.0f}",
              f"{g['ratio']:.2f}"] for g in rows]  # fmt: skip
    head = ["product", "M", "N", "K", "GF/s", "% of peak", "OpenBLAS GF/s", "ratio"]
    if "dnnl_ratio" in rows[0]:
        head += ["oneDNN GF/s", "ratio"]
        lines = [line + [f"{g['dnnl_gflops']:.0f}", f"{g['dnnl_ratio']:.2f}"] for line, g in zip(lines, rows)]
    text = "C (M, N) = A (M, K) B (K, N) on all threads, triad's `gemm`, OpenBLAS and, where its library is installed, oneDNN\n\
taking turns; medians. dX and dW are the products of the gradients, with one operand transposed.\n"
    if any("xsmm_ratio" in g for g in rows):
        head += ["libxsmm GF/s", "ratio"]
        lines = [line + ([f"{g['xsmm_gflops']:.0f}", f"{g['xsmm_ratio']:.2f}"] if "xsmm_ratio" in g else ["", ""])
                 for line, g in zip(lines, rows)]  # fmt: skip
    if any("kept_gflops" in g for g in rows):
        head += ["weights in panels GF/s", "% of peak", "ratio to oneDNN"]
        lines = [line + ([f"{g['kept_gflops']:.0f}", f"{100 * g['kept_gflops'] / g['peak_gflops']:.0f}",
                          f"{g['kept_gflops'] / g['dnnl_gflops']:.2f}" if "dnnl_gflops" in g else ""]
                         if "kept_gflops" in g else ["", "", ""]) for line, g in zip(lines, rows)]  # fmt: skip
        text += "Forward and dX of a layer multiply by weights, which training brings into panels once an update: the last columns.\n"
    return ["## Matrix products\n", text, table(head, lines), why(sentences, "gemm")]


def ops_part(alone, sentences):
    if not alone.get("ops"):
        return []
    lines = [[o["name"], o["read"], o["written"], f"{o['ns']:.2f}", f"{o['gb_s']:.1f}", f"{o['memory_gb_s']:.1f}",
              f"{100 * o['share']:.0f}"] for o in alone["ops"]]  # fmt: skip
    text = "`triad bench ops` on all threads: each op on tensors of 64 MB, and in turn with it a loop that moves the same streams of\n\
numbers, reads and writes whole tensors, and computes nothing; its stores go past the caches where that is faster. An op that must\n\
see all numbers before it writes the first reads them twice. ns: of one number; % of the memory: the median over rounds of the\n\
loop's time over the op's.\n"
    head = ["op", "read", "written", "ns", "GB/s", "the loop's GB/s", "% of the memory"]
    return ["## What is not a product\n", text, table(head, lines), why(sentences, "ops")]


def balance_part(data, sentences):
    shown = (2, 4, 8, 16, 32, 64)
    lines = []
    for row, all_ in data["balance"].items():
        by = {b["threads"]: b for b in all_}
        waits = ", ".join(f"{w['op']} ({w['kernel']}) {100 * w['share']:.0f}" for w in by[64]["waits"][:3] if w["share"] >= 0.005)
        lines.append([row, *(f"{by[t]['speedup']:.1f} ({100 * by[t]['balance']:.0f})" for t in shown),
                      by[64]["regions"], by[64]["barriers"], waits])  # fmt: skip
    text = "`triad bench ROW --balance` on one thread: a step is cut and laid out as for so many threads, and each thread's share of what\n\
lies between two barriers is timed by itself, the least of some rounds. One thread's time over the sum of the longest shares, and in\n\
brackets the balance: the threads' work over what they could do in that time, in per cent. What is between the two is work that the\n\
cut adds (or, above it, caches that smaller blocks fit better). What threads do to one another in shared caches and memory is not in\n\
it, nor are the barriers. Last: what 64 threads wait for, in per cent of their time.\n"
    head = ["row", *(f"{t} threads" for t in shown), "regions", "barriers", "waited for"]
    return ["## Balance on many threads\n", text, table(head, lines), why(sentences, "balance")]


ISAS = dict(avx512="AVX-512", avx2="AVX2")


def over(rows, who):
    """The choice's rate over that of `who`, the median over the rows where it takes part, and the least."""
    ratios = [r[r["chosen"] + "_gflops"] / r[who] for r in rows if who in r]
    return f"{statistics.median(ratios):.2f} ({min(ratios):.2f})" if ratios else ""


def backends_part(data, sentences):
    isas = [isa for isa in ISAS if isa in data["backends"]]
    kinds = list(dict.fromkeys(r["name"] for isa in isas for r in data["backends"][isa]))
    lines, slow = [], []
    for kind in kinds:
        line = [kind, ""]
        for isa in isas:
            rows = [r for r in data["backends"][isa] if r["name"] == kind]
            line[1] = len(rows)
            chosen = ", ".join(dict.fromkeys(r["chosen"] for r in rows))
            line += [chosen, *(over(rows, who + "_gflops") for who in ("packed", "blas", "xsmm"))]
            slow += [[ISAS[isa], kind, r["m"], r["n"], r["k"], r["chosen"], f"{r[r['chosen'] + '_gflops']:.1f}", r["fastest"],
                      f"{r[r['fastest'] + '_gflops']:.1f}", f"{100 * r['behind']:.0f}"] for r in rows if r["slow"]]  # fmt: skip
        lines.append(line)
    head = ["class", "products"] + [h for isa in isas for h in (ISAS[isa], "over packed", "OpenBLAS", "libxsmm")]
    text = f"{data['cpu']}, one thread, {data['date']}; `make bench-backends`. By classes of sizes and layouts (A' is stored (K, M),\n\
B' (N, K)) the back ends that autograd/kernels/gemm_choice.c chooses, and how fast they are: their rate over that of\n\
packed panels, of OpenBLAS and of libxsmm, the median over the class's products and, in brackets, the least.\n"
    more = "The products whose choice is more than 5 % behind the fastest:\n"
    head_slow = ["vectors", "class", "M", "N", "K", "chosen", "GF/s", "fastest", "GF/s", "behind %"]
    return ["## The back ends of gemm\n", text, table(head, lines)] + ([more, table(head_slow, slow)] if slow else []) + \
           [why(sentences, "backends")]  # fmt: skip


def emoji_part(emoji, sentences):
    out = [
        "## One whole training run\n",
        f"{emoji['cpu']}, {emoji['threads']} threads, {emoji['date']}: `make bench-emoji` trains the model of "
        f"configs/emoji-peer.yaml (batch {emoji['batch']}) by triad and by PyTorch, from the same first weights, on the same "
        "data. Samples a second are medians over windows of ten steps. triad decodes its data within the first pass; "
        "PyTorch's was decoded before, and that time is not counted.\n",
        "![losses](emoji-losses.svg)\n",
    ]
    lines = [[r["program"] + (f", {r['mode']}" if "mode" in r else ""), r["steps"], f"{r['seconds']:.0f}",
              f"{r['samples_per_s']:.0f}", f"{r['overall_samples_per_s']:.0f}", f"{100 * r['data_share']:.1f}",
              f"{r['loss']:.3f}", f"{100 * r['r1']['compositions/text->image R@1']:.1f}"] for r in emoji["runs"]]  # fmt: skip
    head = ["program", "steps", "seconds", "samples/s", "over all", "% waiting for data", "loss", "R@1 text to image"]
    more = f"{emoji['ratio']:.2f} times PyTorch's samples a second. What was tried to learn more in a given time: " \
           "[recipes.md](recipes.md).\n"  # fmt: skip
    return out + [table(head, lines), more, why(sentences, "emoji")]


TOP = """# Performance

`make bench` runs every row of `configs/bench/` by triad alone, `make bench-peers` beside PyTorch, and `make bench-page`
writes this page from their results in `build/bench/`; only the sentences about why are written by hand. A row is one
whole training step: gradients, forward, loss, backward, AdamW, on fixed input in f32.
"""

FIELDS = """## The fields of `triad bench ROW`

| field | meaning |
| --- | --- |
| `median`, `min` | seconds a step, over `steps` steps after the first and `--warmup` more |
| `cpu` | the share of its threads' time that the program ran in while steps were timed; well below 1, other work took the cores |
| `peak_mb`, `peak_total_mb` | the process's peak of resident memory before anything is measured but the row: above what it was when `main` began, and all of it |
| `first_step_s` | from the start of the process to the end of the first step |
| `gflop`, `gflops`, `share`, `peak_gflops` | operations a step (10^9); a second, by the median; as a share of the multiply-add peak; that peak, measured right after |
| `gbytes`, `bandwidth_gb_s`, `limit_s`, `of_limit` | bytes a step as inputs and outputs of its calls; the memory's speed; seconds at the roofline; their share of the median |
| `samples`, `parameters` | in a step; trained |
| `params_mb`, `state_mb`, `plan_mb`, `input_mb` | parameters; with gradients and moments (16 bytes a parameter; less with `weights=bf16`, `state=bf16`, `state=8bit`); the plan's arena; fixed input |
| `again_gflop` | of `gflop`: what is computed a second time to save memory: some norms and activations always, more where `memory=1GB` is a limit |
| `ops` | with `--profile`: op, kernel, calls, seconds, share of the time, 10^9 operations and bytes, seconds at the roofline, a step |
"""


def main():
    folder = sys.argv[1] if len(sys.argv) > 1 else "build/bench"
    names = ("triad.json", "peers.json", "emoji.json", "backends.json", "balance.json")
    alone, peers, emoji, products, balance = (load(folder, name) for name in names)
    sentences = kept_sentences()
    parts = [TOP]
    parts += peers_part(peers, sentences) if peers else kept_parts("Beside PyTorch")
    parts += emoji_part(emoji, sentences) if emoji else kept_parts("One whole training run")
    if alone:
        parts += roofline_part(alone, sentences) + lost_part(alone, sentences)
        parts += gemm_part(alone, sentences) or kept_parts("Matrix products")
        parts += ops_part(alone, sentences) or kept_parts("What is not a product")
    else:
        parts += kept_parts("The roofline of each row", "Where the rest is lost", "Matrix products", "What is not a product")
    parts += balance_part(balance, sentences) if balance else kept_parts("Balance on many threads")
    parts += backends_part(products, sentences) if products else kept_parts("The back ends of gemm")
    parts.append(FIELDS)
    with open(PAGE, "w") as f:
        f.write("\n".join(parts))
    print(f"{PAGE} written")


if __name__ == "__main__":
    main()
