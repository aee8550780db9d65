#!/usr/bin/env python3
"""Runs triad's bench, alone or beside its peers, and keeps the results as JSON.

    bench/compare.py alone                    every row by triad -> build/bench/triad.json, and a table
    bench/compare.py peers                    triad and PyTorch, taking turns -> build/bench/peers.json, and a table
    bench/compare.py backends                 the back ends of gemm beside OpenBLAS and libxsmm -> build/bench/backends.json
        --rows vit_s16,gpt  --rounds 3  --steps 7  --threads 2  --modes eager,compile  --python build/venv/bin/python

In each round every program runs each row once, in a process of its own, pinned to the same cores with the same number of
threads. `adamw+state=bf16` is a row with options of triad's bench, beside PyTorch's plain one. A ratio is PyTorch's median
step over triad's of the same round; the figure of a row is the median over rounds, of the mode that is PyTorch's fastest. A
mode that is more than 15 % slower than another in the first round does not run in the others (compiling takes minutes).
Needs no package.
"""
import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import time

ROWS = "clip_small clip_b32 vit_s16 gpt resnet50 efficientnet_b0 wav2vec2 infonce8192 adamw logmel".split()
PEER_ROWS = ROWS + ["adamw+state=bf16"]
EAGER_ONLY = {"adamw", "logmel"}  # nothing to compile: one fused call; complex numbers
PADDED = {"clip_small", "clip_b32"}


def pinned(threads):
    cores = sorted(os.sched_getaffinity(0))[:threads]
    return ["taskset", "-c", ",".join(map(str, cores))] if shutil.which("taskset") else []


def run(words, threads):
    """The last line of the program's output, as JSON; None where it fails, with its last words shown."""
    env = dict(os.environ, OMP_NUM_THREADS=str(threads))
    done = subprocess.run(pinned(threads) + words, capture_output=True, text=True, env=env)
    if done.returncode == 0:
        return json.loads(done.stdout.strip().splitlines()[-1])
    last = (done.stderr.strip() or done.stdout.strip()).splitlines()[-3:]
    print(f"    {' '.join(words)} failed ({done.returncode}): {' | '.join(last)}", file=sys.stderr)
    return None


def triad(options, row, threads=None, profile=False):
    threads = threads or options.threads
    steps = ["--steps", str(options.steps), "--threads", str(threads)] + ["--profile"] * profile
    return run([options.triad, "bench", *row.split("+"), *steps], threads)


def lines_of(options, what):
    """The table of matrix products (gemm) or of other ops (ops): a list of JSON objects."""
    words = [options.triad, "bench", what, "--threads", str(options.threads)]
    done = subprocess.run(pinned(options.threads) + words, capture_output=True, text=True)
    if done.returncode:
        print(f"    {' '.join(words)} failed: {done.stderr.strip()}", file=sys.stderr)
    return [json.loads(line) for line in done.stdout.splitlines()]


def torch_variants(options, row):
    row = row.partition("+")[0]
    for mode in options.modes.split(","):
        if mode == "compile" and row in EAGER_ONLY:
            continue
        for pad in ("77", "longest") if row in PADDED else (None,):
            words = [options.python, "bench/peers/torch_peer.py", row, "--mode", mode]
            yield (f"{mode}, {pad}" if pad else mode), words + (["--pad", pad] if pad else [])


def peak(options):
    return {n: run([options.triad, "bench", "peak", "--threads", str(n)], n) for n in sorted({1, options.threads})}


def write(options, name, data):
    os.makedirs(options.out, exist_ok=True)
    path = os.path.join(options.out, name)
    with open(path + ".part", "w") as f:
        json.dump(data, f, indent=1)
        f.write("\n")
    os.replace(path + ".part", path)
    print(f"{path} written", file=sys.stderr)


def header(options):
    with open("/proc/cpuinfo") as f:
        cpu = next((line.split(":", 1)[1].strip() for line in f if line.startswith("model name")), "unknown")
    return dict(date=time.strftime("%Y-%m-%d"), cpu=cpu, threads=options.threads, machine=peak(options))


def turns(options, row):
    """On all threads and on one in turn: the run with the least median, and with it the median over rounds of what all
    threads gain, of each round's fastest steps."""
    best, gains = None, []
    for _ in range(options.rounds):
        r = triad(options, row, profile=True)
        if not r:
            return None
        if options.threads > 1 and options.scaling:
            one = triad(options, row, 1)
            gains += [one["min"] / r["min"]] if one else []
        if not best or r["median"] < best["median"]:
            best = r
    return dict(best, gain=statistics.median(gains) if gains else None)


def alone(options):
    result = dict(header(options), rows={})
    heads = f"{'s a step':>9} {'GFLOP':>7} {'GF/s':>6} {'% peak':>7} {'% roof':>7} {'MB':>6} {'start s':>8} {'x of 1':>7}"
    print(f"{'row':16} {heads}")
    for row in options.rows:
        r = turns(options, row)
        if not r:
            continue
        result["rows"][row] = r
        if r["cpu"] < 0.9:
            print(f"{row}: other programs took {100 - 100 * r['cpu']:.0f} % of the cores meanwhile", file=sys.stderr)
        gain = f"{r['gain']:.2f}" if r["gain"] else "-"
        print(
            f"{row:16} {r['median']:9.4f} {r['gflop']:7.1f} {r['gflops']:6.1f} {100 * r['share']:7.1f} "
            f"{100 * r['of_limit']:7.1f} {r['peak_mb']:6.0f} {r['first_step_s']:8.2f} {gain:>7}",
            flush=True,
        )
    if options.gemm:
        result["gemm"] = lines_of(options, "gemm")
        for g in result["gemm"]:
            print(f"{g['name']:22} {g['m']:6} {g['n']:6} {g['k']:6} {g['gflops']:7.1f} GF/s {100 * g['share']:4.0f} % {g['ratio']:5.2f}")
    if options.ops:
        result["ops"] = lines_of(options, "ops")
        for o in result["ops"]:
            print(f"{o['name']:28} {o['ns']:7.3f} ns {o['gb_s']:6.1f} GB/s of {o['memory_gb_s']:6.1f} {o['share']:5.2f}")
    write(options, "triad.json", result)


def medians(rounds):
    """Of each class of products the median rates over the rounds; who is the fastest, and how far the choice is behind."""
    out = []
    for lines in zip(*rounds):
        r = dict(lines[0])
        rates = {f: statistics.median(line[f] for line in lines) for f in r if f.endswith("_gflops")}
        best = max(rates, key=rates.get)
        r.update(rates, fastest=best.removesuffix("_gflops"), behind=rates[best] / rates[r["chosen"] + "_gflops"] - 1)
        out.append(dict(r, slow=r["behind"] > 0.05))
    return out


def backends(options):
    """`triad bench gemm --table` on AVX-512 and on AVX2, the libraries held to the same instructions."""
    older = dict(TRIAD_ISA="avx2", OPENBLAS_CORETYPE="Haswell", LIBXSMM_TARGET="hsw")
    result = dict(header(options), backends={})
    for more in {}, older:
        words = pinned(1) + [options.triad, "bench", "gemm", "--table"]
        done = [subprocess.run(words, env=dict(os.environ, **more), capture_output=True, text=True, check=True)
                for _ in range(options.rounds)]  # fmt: skip
        table = medians([[json.loads(line) for line in d.stdout.splitlines()] for d in done])
        result["backends"][table[0]["isa"]] = table
        for r in table:
            if r["slow"]:
                print(f"{r['isa']:8}{r['name']:18} {r['m']:5} {r['n']:5} {r['k']:5} {r['chosen']} is {100 * r['behind']:.0f} % behind {r['fastest']}")
    write(options, "backends.json", result)


def balance(options):
    """`triad bench ROW --balance`: how the steps share out among 1 to 64 threads, timed share by share on one."""
    result = dict(header(options), balance={})
    for row in options.rows:
        if row == "logmel":  # its loop is over frames: it has no plan
            continue
        r = run([options.triad, "bench", *row.split("+"), "--balance", "--steps", str(options.steps)], 1)
        if not r:
            continue
        result["balance"][row] = r["balance"]
        print(f"{row:16} " + "  ".join(f"{b['threads']}: {b['speedup']:.1f}" for b in r["balance"]), flush=True)
    write(options, "balance.json", result)


def summary(row, runs, variants):
    """Ratios by variant over rounds, and the variant whose own median is the least."""
    ours = [r for r in runs if r["program"] == "triad"]
    by_round = {r["round"]: r for r in ours}
    out = dict(triad=statistics.median(r["median"] for r in ours), triad_mb=min(r["peak_mb"] for r in ours),
               triad_total_mb=min(r["peak_total_mb"] for r in ours),
               triad_first_s=statistics.median(r["first_step_s"] for r in ours), variants={})  # fmt: skip
    for name in variants:
        theirs = [r for r in runs if r["program"] != "triad" and r["variant"] == name and r["round"] in by_round]
        if not theirs:
            continue
        out["variants"][name] = dict(
            median=statistics.median(r["median"] for r in theirs),
            ratio=statistics.median(r["median"] / by_round[r["round"]]["median"] for r in theirs),
            mb=min(r["peak_mb"] for r in theirs),
            total_mb=min(r["peak_total_mb"] for r in theirs),
            first_s=statistics.median(r["first_step_s"] for r in theirs),
        )
    if out["variants"]:
        out["best"] = min(out["variants"], key=lambda v: out["variants"][v]["median"])
    return out


def show(row, s):
    for name, v in s["variants"].items():
        mark = "*" if name == s["best"] else " "
        print(
            f"{row:16} {name + mark:18} {s['triad']:9.4f} {v['median']:9.4f} {v['ratio']:6.2f} {s['triad_mb']:6.0f} "
            f"{v['mb']:6.0f} {s['triad_mb'] / v['mb']:5.2f} {s['triad_first_s']:7.2f} {v['first_s']:7.2f}",
            flush=True,
        )


def contenders(runs, variants):
    """The modes that may still turn out to be PyTorch's fastest, of each padding."""
    first = {r["variant"]: r["median"] for r in runs if r["program"] != "triad" and r["round"] == 0}
    least = {}
    for name, median in first.items():
        pad = name.partition(", ")[2]
        least[pad] = min(median, least.get(pad, median))
    return [v for v in variants if v[0] in first and first[v[0]] <= 1.15 * least[v[0].partition(", ")[2]]]


def peers(options):
    result = dict(header(options), rows={})
    heads = f"{'triad s':>9} {'torch s':>9} {'ratio':>6} {'MB':>6} {'torch':>6} {'share':>5} {'first':>7} {'torch':>7}"
    print(f"{'row':16} {'mode':18} {heads}")
    for row in options.rows:
        runs, variants = [], list(torch_variants(options, row))
        for round_ in range(options.rounds):
            ours = triad(options, row)
            if ours:
                runs.append(dict(ours, program="triad", round=round_))
            more = ["--steps", str(options.steps), "--threads", str(options.threads)]
            for name, words in contenders(runs, variants) if round_ else variants:
                theirs = run(words + more, options.threads)
                if theirs:
                    runs.append(dict(theirs, variant=name, round=round_))
        if not any(r["program"] == "triad" for r in runs):
            continue
        s = summary(row, runs, [name for name, _ in variants])
        result["rows"][row] = dict(s, runs=runs)
        show(row, s)
        write(options, "peers.json", result)  # after each row: a long run that is ended keeps what it has


def main():
    p = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    p.add_argument("what", choices=["alone", "peers", "backends", "balance"])
    p.add_argument("--rows", help="by default all")
    p.add_argument("--rounds", type=int, default=3)
    p.add_argument("--steps", type=int, default=7)
    p.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    p.add_argument("--modes", default="eager,compile")
    p.add_argument("--no-scaling", dest="scaling", action="store_false", help="alone: not on one thread as well")
    p.add_argument("--no-gemm", dest="gemm", action="store_false", help="alone: without the table of products")
    p.add_argument("--no-ops", dest="ops", action="store_false", help="alone: without the table of other ops")
    p.add_argument("--python", default="build/venv/bin/python")
    p.add_argument("--triad", default="build/triad")
    p.add_argument("--out", default="build/bench")
    options = p.parse_args()
    options.rows = options.rows.split(",") if options.rows else PEER_ROWS if options.what == "peers" else ROWS
    unknown = [r for r in options.rows if r.partition("+")[0] not in ROWS]
    if unknown:
        p.error(f"unknown row '{unknown[0]}'; there are {', '.join(ROWS)}")
    dict(alone=alone, peers=peers, backends=backends, balance=balance)[options.what](options)


if __name__ == "__main__":
    main()
