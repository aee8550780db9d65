"""Twenty steps of every optimizer and a moving average on given gradients, in f64: `make_optim.py SEED OUT`. AdamW, SGD,
Adafactor and Muon are PyTorch's (torch.optim), LAMB and LARS timm's, Lion its author's lion-pytorch.

optim.json         {"steps", "lr": [20], "cases": [{"name", "kind", its settings, "clip", "ema"}]}: the rate of each step, a
                   norm to clip the whole gradient to (0: none), the moving average's decay
optim.safetensors  start.P (shape), grad.P (20, shape), f32, of the parameters P: matrix, bias, scalar, stack, still (whose
                   gradient is zero); NAME/P (20, shape) after each step; NAME/ema.P likewise; NAME/norm (20), the
                   gradient's norm before clipping

map.signed, map.positive (256), quant.S.x (3, 256), quant.S.codes (3, 256), i32, quant.S.absmax (3) of S in signed,
positive: bitsandbytes' dynamic maps, and the nearest codes of random numbers over many decades (bitsandbytes' own loop for
CPUs takes others for small numbers).

Weight decay falls on `matrix`, `stack` and `still`, not on `bias` and `scalar`. AdamW decays the weight by
lr * weight_decay * weight; SGD adds weight_decay * weight to the (clipped) gradient before the momentum. The first
momentum is the first gradient. The moving average starts as the parameters: ema = decay * ema + (1 - decay) * parameter
after each step. Clipping multiplies by min(1, clip / (norm + 1e-6)).

Muon moves `matrix` and `still`, AdamW the rest. PyTorch's matrices are (out, in) and triad's (in, out), so PyTorch gets
them transposed. Its Newton-Schulz steps go through bf16; here the conversion is left out, so that they run in f64.
"""
from importlib import metadata
from common import *
from torch.optim.swa_utils import get_ema_multi_avg_fn

import timm
import timm.optim
from bitsandbytes.functional import create_dynamic_map
from lion_pytorch import Lion

STEPS, SHAPES = 20, dict(matrix=(5, 7), bias=(7,), scalar=(), stack=(2, 5, 3), still=(3, 2))
RATES = [1e-2 * min(1.0, (i + 1) / 3) for i in range(STEPS)] # a warm-up of three steps
CASES = [
    dict(name="adamw", kind="adamw", betas=[0.9, 0.999], eps=1e-8, weight_decay=0.0),
    dict(name="adamw_decay", kind="adamw", betas=[0.9, 0.98], eps=1e-6, weight_decay=0.1),
    dict(name="adamw_clip", kind="adamw", betas=[0.8, 0.95], eps=1e-3, weight_decay=0.2, clip=1.0),
    dict(name="sgd", kind="sgd", momentum=0.0, nesterov=0, weight_decay=0.0),
    dict(name="sgd_momentum", kind="sgd", momentum=0.9, nesterov=0, weight_decay=0.05),
    dict(name="sgd_nesterov", kind="sgd", momentum=0.8, nesterov=1, weight_decay=0.05),
    dict(name="sgd_nesterov_clip", kind="sgd", momentum=0.9, nesterov=1, weight_decay=0.0, clip=2.0),
    dict(name="lamb", kind="lamb", betas=[0.9, 0.999], eps=1e-6, weight_decay=0.1),
    dict(name="lamb_clip", kind="lamb", betas=[0.8, 0.95], eps=1e-6, weight_decay=0.02, clip=1.0),
    dict(name="lars", kind="lars", momentum=0.9, nesterov=0, weight_decay=0.05, eps=1e-8, trust=0.02),
    dict(name="lars_nesterov_clip", kind="lars", momentum=0.8, nesterov=1, weight_decay=0.1, eps=1e-8, trust=0.1, clip=2.0),
    dict(name="lion", kind="lion", betas=[0.9, 0.99], weight_decay=0.3),
    dict(name="lion_clip", kind="lion", betas=[0.95, 0.98], weight_decay=0.0, clip=1.0),
    dict(name="adafactor", kind="adafactor", weight_decay=0.0),
    dict(name="adafactor_decay_clip", kind="adafactor", weight_decay=0.2, clip=1.0),
    dict(name="muon", kind="muon", momentum=0.95, nesterov=1, rate="original", betas=[0.9, 0.98], eps=1e-8, weight_decay=0.1),
    dict(name="muon_match_clip", kind="muon", momentum=0.9, nesterov=0, rate="match_rms", betas=[0.9, 0.98], eps=1e-8,
         weight_decay=0.2, clip=1.0)
]


def optimizers(c, p):
    """What steps the parameters of one case, and which of them it has transposed."""
    groups = [
        dict(params=[v for v in p.values() if v.ndim > 1], weight_decay=c["weight_decay"]),
        dict(params=[v for v in p.values() if v.ndim <= 1], weight_decay=0.0)
    ]
    betas, momentum = tuple(c.get("betas", ())), dict(momentum=c.get("momentum"), nesterov=bool(c.get("nesterov")))
    if c["kind"] == "adamw":
        return [torch.optim.AdamW(groups, lr=1.0, betas=betas, eps=c["eps"])]
    if c["kind"] == "sgd":
        return [torch.optim.SGD(groups, lr=1.0, **momentum)]
    if c["kind"] == "lamb":
        return [timm.optim.Lamb(groups, lr=1.0, betas=betas, eps=c["eps"], max_grad_norm=None, foreach=False)]
    if c["kind"] == "lars":
        return [timm.optim.Lars(groups, lr=1.0, trust_coeff=c["trust"], eps=c["eps"], foreach=False, **momentum)]
    if c["kind"] == "lion":
        return [Lion(groups, lr=1.0, betas=betas)]
    if c["kind"] == "adafactor":
        return [torch.optim.Adafactor(groups, lr=1.0, eps=(torch.finfo(torch.float32).eps, 1e-3))]
    hidden = [v for n, v in p.items() if n in ("matrix", "still")]
    rest = [v for n, v in p.items() if n not in ("matrix", "still")]
    groups = [
        dict(params=[v for v in rest if v.ndim > 1], weight_decay=c["weight_decay"]),
        dict(params=[v for v in rest if v.ndim <= 1], weight_decay=0.0)
    ]
    rate = dict(original="original", match_rms="match_rms_adamw")[c["rate"]]
    return [
        torch.optim.Muon(hidden, lr=1.0, weight_decay=c["weight_decay"], adjust_lr_fn=rate, **momentum),
        torch.optim.AdamW(groups, lr=1.0, betas=betas, eps=c["eps"])
    ]


torch.Tensor.bfloat16 = torch.Tensor.clone  # of torch.optim.Muon

seed, _, folder = arguments({}, "SEED OUT_FOLDER")
g = generator(seed)
start = {n: torch.randn(s, generator=g) for n, s in SHAPES.items()}
grads = {n: torch.randn((STEPS, *s), generator=g) * (0 if n == "still" else 1) for n, s in SHAPES.items()}
tensors = {f"start.{n}": t for n, t in start.items()} | {f"grad.{n}": t for n, t in grads.items()}
for c in CASES:
    c.setdefault("clip", 0.0)
    c["ema"] = 0.9
    p = {n: torch.nn.Parameter(t.double()) for n, t in start.items()}
    ema = [t.double() for t in start.values()]
    turned = {n for n in p if c["kind"] == "muon" and n in ("matrix", "still")}
    for n in turned:
        p[n] = torch.nn.Parameter(p[n].detach().T.contiguous())
        ema[list(p).index(n)] = p[n].detach().clone()
    steppers = optimizers(c, p)
    average, path, norms = get_ema_multi_avg_fn(c["ema"]), {n: [] for n in p}, []
    ema_path = {n: [] for n in p}
    for step in range(STEPS):
        for n, v in p.items():
            x = grads[n][step].double()
            v.grad = (x.T if n in turned else x).clone(memory_format=torch.contiguous_format)
        for opt in steppers:
            for group in opt.param_groups:
                group["lr"] = RATES[step]
        norms.append(torch.nn.utils.clip_grad_norm_(p.values(), c["clip"] or math.inf).double())
        for opt in steppers:
            opt.step()
        average(ema, [v.detach() for v in p.values()], step)
        for n, e in zip(p, ema):
            back = (lambda t: t.T) if n in turned else (lambda t: t)
            path[n].append(back(p[n].detach()).clone())
            ema_path[n].append(back(e).clone())
    for n in p:
        tensors[f"{c['name']}/{n}"], tensors[f"{c['name']}/ema.{n}"] = torch.stack(path[n]), torch.stack(ema_path[n])
    tensors[f"{c['name']}/norm"] = torch.stack(norms)
for sign in ("signed", "positive"):
    code = tensors[f"map.{sign}"] = create_dynamic_map(signed=sign == "signed")
    x = torch.randn((3, 256), generator=g) * 10**(-5 * torch.rand((3, 256), generator=g))
    x = x if sign == "signed" else x.square()
    absmax = x.abs().amax(1, keepdim=True)
    codes = ((x.double() / absmax)[..., None] - code.double()).abs().argmin(-1)
    tensors |= {f"quant.{sign}.x": x, f"quant.{sign}.codes": codes.int(), f"quant.{sign}.absmax": absmax.flatten()}
save(folder, "optim.safetensors", {n: t if t.dtype == torch.int32 else t.float() for n, t in tensors.items()})
save_json(
    folder, "optim.json",
    dict(kind="optim", seed=seed, steps=STEPS, lr=RATES, clip_eps=1e-6, decay=["matrix", "stack", "still"],
         no_decay=["bias", "scalar"], cases=CASES, versions=versions() | dict(timm=timm.__version__, lion=metadata.version("lion-pytorch"), bitsandbytes=metadata.version("bitsandbytes"))))
print(f"{folder}: {len(CASES)} cases")
