"""Ten steps of AdamW, SGD and a moving average on given gradients, by PyTorch in f64: `make_optim.py SEED OUT`.

optim.json         {"steps", "lr": [10], "cases": [{"name", "kind": "adamw" | "sgd", its settings, "clip", "ema"}]}: the
                   rate of each step, a norm to clip the whole gradient to (0: none), the moving average's decay
optim.safetensors  start.P (shape), grad.P (10, shape), f32, of the parameters P: matrix, bias, scalar, still (whose
                   gradient is zero); NAME/P (10, shape) after each step, f64; NAME/ema.P likewise; NAME/norm (10),
                   the gradient's norm before clipping

Weight decay falls on `matrix` and `still` (two dimensions), not on `bias` and `scalar`. AdamW decays the weight by
lr * weight_decay * weight; SGD adds weight_decay * weight to the (clipped) gradient before the momentum. The first
momentum is the first gradient. The moving average starts as the parameters: ema = decay * ema + (1 - decay) * parameter
after each step. Clipping multiplies by min(1, clip / (norm + 1e-6)).
"""
from common import *
from torch.optim.swa_utils import get_ema_multi_avg_fn

STEPS, SHAPES = 10, dict(matrix=(5, 7), bias=(7,), scalar=(), still=(3, 2))
RATES = [1e-2 * min(1.0, (i + 1) / 3) for i in range(STEPS)] # a warm-up of three steps
CASES = [
    dict(name="adamw", kind="adamw", betas=[0.9, 0.999], eps=1e-8, weight_decay=0.0),
    dict(name="adamw_decay", kind="adamw", betas=[0.9, 0.98], eps=1e-6, weight_decay=0.1),
    dict(name="adamw_clip", kind="adamw", betas=[0.8, 0.95], eps=1e-3, weight_decay=0.2, clip=1.0),
    dict(name="sgd", kind="sgd", momentum=0.0, nesterov=0, weight_decay=0.0),
    dict(name="sgd_momentum", kind="sgd", momentum=0.9, nesterov=0, weight_decay=0.05),
    dict(name="sgd_nesterov", kind="sgd", momentum=0.8, nesterov=1, weight_decay=0.05),
    dict(name="sgd_nesterov_clip", kind="sgd", momentum=0.9, nesterov=1, weight_decay=0.0, clip=2.0)
]

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
    groups = [
        dict(params=[v for v in p.values() if v.ndim > 1], weight_decay=c["weight_decay"]),
        dict(params=[v for v in p.values() if v.ndim <= 1], weight_decay=0.0)
    ]
    opt = (torch.optim.AdamW(groups, lr=1.0, betas=tuple(c["betas"]), eps=c["eps"]) if c["kind"] == "adamw" else
           torch.optim.SGD(groups, lr=1.0, momentum=c["momentum"], nesterov=bool(c["nesterov"])))
    average, path, norms = get_ema_multi_avg_fn(c["ema"]), {n: [] for n in p}, []
    ema_path = {n: [] for n in p}
    for step in range(STEPS):
        for n, v in p.items():
            v.grad = grads[n][step].double()
        for group in opt.param_groups:
            group["lr"] = RATES[step]
        norms.append(torch.nn.utils.clip_grad_norm_(p.values(), c["clip"] or math.inf).double())
        opt.step()
        average(ema, [v.detach() for v in p.values()], step)
        for n, e in zip(p, ema):
            path[n].append(p[n].detach().clone())
            ema_path[n].append(e.clone())
    for n in p:
        tensors[f"{c['name']}/{n}"], tensors[f"{c['name']}/ema.{n}"] = torch.stack(path[n]), torch.stack(ema_path[n])
    tensors[f"{c['name']}/norm"] = torch.stack(norms)
save(folder, "optim.safetensors", tensors)
save_json(
    folder, "optim.json",
    dict(kind="optim", seed=seed, steps=STEPS, lr=RATES, clip_eps=1e-6, decay=["matrix", "still"],
         no_decay=["bias", "scalar"], cases=CASES, versions=versions()))
print(f"{folder}: {len(CASES)} cases")
