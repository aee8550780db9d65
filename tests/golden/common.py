"""What the make_*.py scripts share: arguments, random weights, files.

Every reference is computed in f64 from f32 weights and inputs, so that both sides start from the same numbers, and is
written as f32 where a reader compares in f32 (rounding to f32 moves a number by 6e-8 of itself, far below any
tolerance).
"""
import json, math, os, sys
import torch
from safetensors.torch import save_file

torch.set_num_threads(1)
# PyTorch's own attention: the eager path of transformers takes its softmax in f32 even in an f64 model.
ATTENTION = dict(attn_implementation="sdpa")
torch.use_deterministic_algorithms(True)


def arguments(defaults, usage):
    """SEED [key=value ...] OUT_FOLDER -> (seed, sizes, folder). A value takes the type of its default."""
    words, sizes = sys.argv[1:], dict(defaults)
    if len(words) < 2 or not words[0].isdigit() or "=" in words[-1]:
        sys.exit(f"usage: {os.path.basename(sys.argv[0])} {usage}\nsizes: " + " ".join(f"{k}={v}"
                                                                                       for k, v in defaults.items()))
    for w in words[1:-1]:
        key, _, value = w.partition("=")
        if key not in defaults:
            sys.exit(f"{w}: unknown size '{key}'; known: {', '.join(defaults)}")
        sizes[key] = type(defaults[key])(value)
    os.makedirs(words[-1], exist_ok=True)
    return int(words[0]), sizes, words[-1]


def generator(seed):
    return torch.Generator().manual_seed(seed)


def randomise(model, g):
    """Weights large enough that every part of the model shows in the loss: matrices of norm-keeping size, gains near 1,
    biases away from 0 (a fresh initialisation would hide a forgotten bias)."""
    with torch.no_grad():
        for name, p in model.named_parameters():
            r = torch.randn(p.shape, generator=g)
            if p.ndim == 1 and name.endswith(("weight", "bias")):
                p.copy_((1 if name.endswith("weight") else 0) + 0.2 * r)
            elif any(word in name for word in ("embedding", "embed_positions", "cls_token")) and p.ndim < 4:
                p.copy_(0.4 * r)
            elif p.ndim >= 2:
                p.copy_(r / math.sqrt(p[0].numel()))


def save(folder, name, tensors):
    path = os.path.join(folder, name)
    save_file({k: v.detach().contiguous().clone() for k, v in tensors.items()}, path)
    os.chmod(path, 0o644)


def save_json(folder, name, value):
    with open(os.path.join(folder, name), "w", encoding="utf8") as f:
        json.dump(value, f, indent=1)
        f.write("\n")


def versions():
    import transformers
    return {"torch": torch.__version__, "transformers": transformers.__version__}


def gradients(model):
    return {"grad." + n: (torch.zeros_like(p) if p.grad is None else p.grad) for n, p in model.named_parameters()}


def gradient_error(got, truth):
    """What `got` is off by: the largest |got - truth| / |truth| over tensors (2-norms); and, for tensors whose gradient
    is zero in exact arithmetic (the bias of the keys: softmax does not see it), |got| over the norm of all."""
    total = math.sqrt(sum(t.double().square().sum().item() for t in truth.values()))
    off = {n: (got[n].double() - t.double()).norm().item() for n, t in truth.items()}
    norm = {n: t.double().norm().item() for n, t in truth.items()}
    return dict(gradient_relative=max([off[n] / norm[n] for n in off if norm[n] > 1e-6 * total]),
                vanishing_gradient=max([off[n] / total for n in off if norm[n] <= 1e-6 * total], default=0.0))


def nudged(t, g):
    """Each number half a unit in the last place of f32 off, up or down."""
    return t * (1 + 2.0**-24 * torch.randn(t.shape, dtype=t.dtype, generator=g).sign())


def write(out, seed, kind, model, forward, inputs, config):
    """Folder out/kind of a model. forward(model, inputs) -> {"loss", outputs...}; run in f64 for the truth, in f32 to
    see what that is off by, and in f64 from nudged weights: no f32 program can do better than that moves the truth, and
    PyTorch's can by chance (of a loss that happens to be near zero)."""
    folder = os.path.join(out, kind)
    os.makedirs(folder, exist_ok=True)
    weights = {n: p.detach().clone() for n, p in model.named_parameters()}
    buffers = {n: b.clone() for n, b in model.named_buffers() if "running" in n}

    def run(dtype, change=lambda t: t):
        model.to(dtype)
        with torch.no_grad():
            for n, p in model.named_parameters():
                p.copy_(change(weights[n].to(dtype)))
            for n, b in model.named_buffers():
                if n in buffers:
                    b.copy_(buffers[n])
        model.zero_grad()
        x = {k: v.to(dtype) if v.is_floating_point() else v.long() for k, v in inputs.items()}
        y = forward(model, x)
        y["loss"].backward()
        trained = {n for n, p in model.named_parameters() if p.requires_grad}
        return y | {k: v for k, v in gradients(model).items() if k[5:] in trained}

    def error(y):
        return dict(loss_relative=abs(y["loss"].item() / f64["loss"].item() - 1),
                    output_relative=max(((y[k] - f64[k]).norm() / f64[k].norm()).item() for k in outputs),
                    **gradient_error(y, grads))

    g = generator(0)
    f32, f64 = run(torch.float32), run(torch.float64)
    grads = {k: v for k, v in f64.items() if k.startswith("grad.")}
    outputs = [k for k in f64 if k != "loss" and k not in grads]
    off = error(f32)
    moved = [error(run(torch.float64, lambda t: nudged(t, g))) for _ in range(3)]
    save(folder, "weights.safetensors", weights | buffers)
    save(folder, "inputs.safetensors", inputs)
    save(folder, "expected.safetensors", {k: v if k == "loss" else v.float() for k, v in f64.items()})
    found = dict(torch_f32_error=off, rounding={k: max(m[k] for m in moved) for k in off}, versions=versions())
    save_json(folder, "config.json", dict(kind=kind, seed=seed) | config | found)
    print(f"{folder}: loss {f64['loss'].item():.6f}; PyTorch's f32 is off by {off}")


def lengths(g, batch, longest):
    """As many as the batch has: the longest, one, and others between."""
    n = [longest, 1] + torch.randint(2, longest, (batch,), generator=g).tolist()
    return n[:batch]


def offsets(n):
    return torch.tensor([sum(n[:i]) for i in range(len(n) + 1)], dtype=torch.int32)


def spans(o):
    return list(zip(o.tolist()[:-1], o.tolist()[1:]))
