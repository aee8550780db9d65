"""Ops on odd shapes, with their gradients, by PyTorch in f64: `make_ops.py SEED OUT`.

ops.json         {"cases": [{"name", "op", "attr", "in": [names], "out": [names], "weighed", "grad", "rounding"}]}
ops.safetensors  NAME/in.X and NAME/out.Y; NAME/w.Y, random, and NAME/grad.X = d(sum of w.Y * out.Y)/d in.X

Tensors are in triad's layouts: images (N, H, W, C), sequences (N, T, C), packed sequences (T, C) with offsets (B + 1);
weights (kh, kw, C/groups, F) or (k, C/groups, F), of transposed convolutions as well, where C are the channels that
come out; linear (K, N). Inputs and w are f32, results f64, indices int32. The names of ops and attributes are triad's.
"""
from common import *
import torch.nn.functional as F

SEED, _, FOLDER = arguments({}, "SEED OUT_FOLDER")
G = generator(SEED)
CASES, TENSORS = [], {}


def rnd(*shape, lo=None, hi=None):
    """Normal, or uniform in [lo, hi)."""
    if lo is None:
        return torch.randn(shape, generator=G, dtype=torch.float64)
    return lo + (hi - lo) * torch.rand(shape, generator=G, dtype=torch.float64)


def ints(values):
    return torch.as_tensor(values, dtype=torch.int32)


def offsets(lengths):
    return ints([sum(lengths[:i]) for i in range(len(lengths) + 1)])


def case(name, op, fn, x, attr=None, grad=None, weighed=None):
    """x: name -> tensor, rounded to f32 so that both precisions see the same input. fn(*x) gives a tensor or a dict of
    them. grad: which inputs have one; None: all floats. weighed: which outputs are in the sum; None: all floats."""
    x = {k: v.float().double() if v.is_floating_point() else v for k, v in x.items()}
    out = outputs(fn, x)
    grad = [k for k, v in x.items() if v.is_floating_point()] if grad is None else grad
    w = {k: rnd(*v.shape).float().double()
         for k, v in out.items() if k in (weighed or out) and v.is_floating_point()} if grad else {}
    truth = results(fn, x, w, grad)
    for k, v in (prefixed("in", x) | truth | prefixed("w", w)).items():
        TENSORS[f"{name}/{k}"] = stored(v, exact=k.startswith(("in.", "w.")))
    CASES.append(
        {"name": name, "op": op, "attr": attr or {}, "in": list(x), "out": list(out), "weighed": list(w), "grad": grad})
    if moves := rounding(fn, x, w, grad, truth):
        CASES[-1]["rounding"] = moves


def prefixed(prefix, tensors):
    return {f"{prefix}.{k}": v for k, v in tensors.items()}


def outputs(fn, x):
    out = fn(*x.values())
    return out if isinstance(out, dict) else {"y": out}


def results(fn, x, w, grad):
    """grad.X and out.Y"""
    x = {k: v.detach().requires_grad_() if v.is_floating_point() else v for k, v in x.items()}
    out, slopes = outputs(fn, x), {}
    if grad:
        total = sum((w[k] * out[k]).sum() for k in w)
        slopes = dict(zip(grad, torch.autograd.grad(total, [x[k] for k in grad])))
    return {k: v.detach() for k, v in (prefixed("grad", slopes) | prefixed("out", out)).items()}


def rounding(fn, x, w, grad, truth, draws=4):
    """How far results move, relative to their norms, when every input is nudged: no f32 program can do better where
    they cancel (the mean of numbers about zero, a norm of numbers far from it). Written down is what moves by more than a
    tenth of the tolerance of f32, but no jump: of two equal numbers another one became the largest, and a program must do
    as PyTorch does."""
    g, most = generator(0), {}
    for _ in range(draws):
        near = {k: nudged(v, g) if v.is_floating_point() else v for k, v in x.items()}
        for k, v in results(fn, near, w, grad).items():
            if v.is_floating_point() and truth[k].isfinite().all() and (norm := truth[k].norm().item()) > 0:
                most[k] = max(most.get(k, 0), (v - truth[k]).norm().item() / norm)
    return {k: float(f"{v:.2g}") for k, v in most.items() if 5e-7 < v < 1e-3}


def stored(v, exact):
    """Inputs and weights of the sum are numbers that f32 can hold, so they are written as f32."""
    return v.int() if not v.is_floating_point() else v.float() if exact else v


def nchw(x):
    return x.permute(0, 3, 1, 2) if x.ndim == 4 else x.permute(0, 2, 1)


def nhwc(y):
    return y.permute(0, 2, 3, 1) if y.ndim == 4 else y.permute(0, 2, 1)


def torch_weight(w):
    return w.permute(3, 2, 0, 1) if w.ndim == 4 else w.permute(2, 1, 0)


# ---- elementwise -----------------------------------------------------------------------------------------------------
UNARY = dict(gelu=F.gelu, gelu_tanh=lambda x: F.gelu(x, approximate="tanh"),
             quick_gelu=lambda x: x * torch.sigmoid(1.702 * x), silu=F.silu, relu=F.relu, sigmoid=torch.sigmoid,
             softplus=F.softplus, tanh=torch.tanh, erf=torch.erf, exp=torch.exp, expm1=torch.expm1, sin=torch.sin,
             cos=torch.cos, square=torch.square)
for op, fn in UNARY.items():
    case(op, op, fn, dict(x=rnd(3, 7) * 3))
for op, fn in dict(log=torch.log, log1p=torch.log1p, sqrt=torch.sqrt, rsqrt=torch.rsqrt,
                   reciprocal=torch.reciprocal).items():
    case(op, op, fn, dict(x=rnd(3, 7, lo=0.1, hi=4)))
case("gelu_far", "gelu", F.gelu, dict(x=torch.tensor([-30.0, -9, -6, -5, 5, 6, 9, 30], dtype=torch.float64)))
case("softplus_far", "softplus", lambda x: torch.logaddexp(x, torch.zeros_like(x)),
     dict(x=torch.tensor([-60.0, -20, 0, 20, 60], dtype=torch.float64)))
case("leaky_relu", "leaky_relu", lambda x: F.leaky_relu(x, 0.1), dict(x=rnd(3, 7)), dict(slope=0.1))
case("elu", "elu", lambda x: F.elu(x, 0.7), dict(x=rnd(3, 7)), dict(alpha=0.7))
case("clamp", "clamp", lambda x: x.clamp(-0.5, 0.8), dict(x=rnd(3, 7)), dict(lo=-0.5, hi=0.8))
for op, fn in dict(add=torch.add, sub=torch.sub, mul=torch.mul, div=torch.div, maximum=torch.maximum,
                   minimum=torch.minimum, atan2=torch.atan2).items():
    case(op + "_broadcast", op, fn, dict(a=rnd(2, 1, 5), b=rnd(3, 1)))
case("pow_broadcast", "pow", lambda a, b: a**b, dict(a=rnd(2, 1, 5, lo=0.2, hi=3), b=rnd(3, 1)))

# ---- reductions, softmax, index, product -----------------------------------------------------------------------------
for dims in ([0], [1, 2], [0, 2], [0, 1, 2]):
    tag = "".join(map(str, dims))
    for op, fn in dict(sum=torch.sum, mean=torch.mean, max=torch.amax, min=torch.amin).items():
        if op in ("sum", "mean") or dims in ([0], [1, 2]):
            case(f"{op}_{tag}", op, lambda x: fn(x, dims), dict(x=rnd(3, 5, 4)), dict(axes=dims))
case("max_ties", "max", lambda x: torch.amax(x, 1), dict(x=ints([[1, 3, 3, 0], [2, 2, 2, 2]]).double()), dict(axes=[1]))
case("logsumexp", "logsumexp", lambda x: torch.logsumexp(x, 1), dict(x=rnd(3, 5, 4) * 4), dict(axis=1))
# exp overflows f32 at 88.7. Not much further: the gradient exp(x - y) cannot know y better than to f32's last digit.
case("logsumexp_large", "logsumexp", lambda x: torch.logsumexp(x, -1), dict(x=rnd(3, 5) + 90), dict(axis=-1))
case("softmax", "softmax", lambda x: torch.softmax(x, -1), dict(x=rnd(2, 3, 7) * 3))
case("softmax_large", "softmax", lambda x: torch.softmax(x, -1), dict(x=rnd(3, 5) + 900))
case("log_softmax", "log_softmax", lambda x: torch.log_softmax(x, -1), dict(x=rnd(2, 3, 7) * 3))
case("log_softmax_one", "log_softmax", lambda x: torch.log_softmax(x, -1), dict(x=rnd(4, 1)))
case("cumsum", "cumsum", lambda x: torch.cumsum(x, 1), dict(x=rnd(2, 7, 3)), dict(axis=1, reverse=0))
case("cumsum_reverse", "cumsum", lambda x: x.flip(-1).cumsum(-1).flip(-1), dict(x=rnd(2, 7)), dict(axis=-1, reverse=1))
case("top_k", "top_k", lambda x: dict(zip(("value", "index"), torch.topk(x, 3))), dict(x=rnd(2, 3, 9)), dict(k=3))
case("top_k_all", "top_k", lambda x: dict(zip(("value", "index"), torch.topk(x, 5))), dict(x=rnd(4, 5)), dict(k=5))
case("argmax", "argmax", lambda x: x.argmax(1), dict(x=rnd(3, 5, 4)), dict(axis=1), grad=[])
case("gather", "gather", lambda table, index: table[index.long()],
     dict(table=rnd(6, 3), index=ints([[5, 0, 0], [2, 5, 3]])))
case("scatter_add", "scatter_add", lambda x, index: torch.zeros(6, 3, dtype=x.dtype).index_add(0, index.long(), x),
     dict(x=rnd(5, 3), index=ints([5, 0, 0, 2, 5])), dict(rows=6))
case("one_hot", "one_hot", lambda index: F.one_hot(index.long(), 5).double(), dict(index=ints([[0, 4, 2], [2, 1, 0]])),
     dict(classes=5), grad=[])
case("take_last", "take_last", lambda x, index: x.gather(-1,
                                                         index.long()[..., None])[..., 0],
     dict(x=rnd(2, 3, 5), index=ints([[0, 4, 2], [2, 1, 0]])))
for name, a, b, ta, tb in [("plain", (5, 7), (7, 3), 0, 0), ("tn", (7, 5), (7, 3), 1, 0), ("nt", (5, 7), (3, 7), 0, 1),
                           ("tt", (7, 5), (3, 7), 1, 1), ("batched", (2, 1, 3, 5), (4, 5, 2), 0, 0),
                           ("rows_by_matrix", (2, 3, 5, 7), (7, 4), 0, 0), ("vector", (1, 13), (13, 1), 0, 0)]:
    case("matmul_" + name, "matmul", lambda a, b: (a.mT if ta else a) @ (b.mT if tb else b), dict(a=rnd(*a), b=rnd(*b)),
         dict(ta=ta, tb=tb))
case("linear", "linear", lambda x, weight, bias: x @ weight + bias, dict(x=rnd(2, 3, 7), weight=rnd(7, 5), bias=rnd(5)))

# ---- norms -----------------------------------------------------------------------------------------------------------
for name, shape, scale in (("", (2, 3, 7), 1), ("_wide", (2, 67), 30), ("_offset", (3, 5), 0)):
    x = rnd(*shape) * scale if scale else rnd(*shape) + 50 # "offset": a mean far from zero costs digits
    c = shape[-1]
    case("layer_norm" + name, "layer_norm", lambda x, gain, bias: F.layer_norm(x, (c,), gain, bias, 1e-5),
         dict(x=x, gain=rnd(c), bias=rnd(c)), dict(eps=1e-5))
    case("rms_norm" + name, "rms_norm", lambda x, gain: F.rms_norm(x, (c,), gain, 1e-6), dict(x=x, gain=rnd(c)),
         dict(eps=1e-6))
case("layer_norm_bare", "layer_norm", lambda x: F.layer_norm(x, (5,), eps=1e-3), dict(x=rnd(3, 5)), dict(eps=1e-3))
for groups in (1, 2, 6):
    case(f"group_norm_{groups}", "group_norm",
         lambda x, gain, bias: nhwc(F.group_norm(nchw(x), groups, gain, bias, 1e-5)),
         dict(x=rnd(2, 3, 2, 6), gain=rnd(6), bias=rnd(6)), dict(groups=groups, eps=1e-5))
case("group_norm_1d", "group_norm", lambda x, gain, bias: nhwc(F.group_norm(nchw(x), 3, gain, bias, 1e-5)),
     dict(x=rnd(2, 7, 6), gain=rnd(6), bias=rnd(6)), dict(groups=3, eps=1e-5))
for shape in ((3, 4, 5, 3), (4, 7, 5), (9, 4)):
    c, axes = shape[-1], tuple(range(len(shape) - 1))
    case(
        f"batch_norm_{len(shape)}d", "batch_norm", lambda x, gain, bias: dict(
            y=F.batch_norm(x.reshape(-1, c), None, None, gain, bias, True, 0.1, 1e-5).reshape(x.shape),
            mean=x.mean(axes), var=x.var(axes, correction=0)), dict(x=rnd(*shape) + 2, gain=rnd(c), bias=rnd(c)),
        dict(eps=1e-5), weighed=["y"])
case(
    "batch_norm_fixed", "batch_norm_fixed", lambda x, gain, bias, mean, var: nhwc(
        F.batch_norm(nchw(x), mean.detach(), var.detach(), gain, bias, False, 0.1, 1e-3)),
    dict(x=rnd(2, 3, 5, 4), gain=rnd(4), bias=rnd(4), mean=rnd(4), var=rnd(4, lo=0.2, hi=3)), dict(eps=1e-3),
    grad=["x", "gain", "bias"])

# ---- convolution -----------------------------------------------------------------------------------------------------
# name, size, channels in, out, kernel, stride, pad, dilation, groups
CONV2D = [("1x1", (5, 7), 3, 4, (1, 1), (1, 1), (0, 0), (1, 1), 1),
          ("3x3_same", (5, 7), 3, 4, (3, 3), (1, 1), (1, 1), (1, 1), 1),
          ("stride2", (7, 9), 3, 5, (3, 3), (2, 2), (1, 1), (1, 1), 1),
          ("uneven", (9, 8), 2, 3, (3, 2), (2, 3), (0, 2), (1, 1), 1),
          ("dilated", (7, 9), 2, 3, (3, 3), (1, 1), (2, 1), (2, 3), 1),
          ("groups", (5, 6), 4, 6, (3, 3), (1, 1), (1, 1), (1, 1), 2),
          ("depthwise", (5, 4), 5, 5, (3, 3), (1, 1), (1, 1), (1, 1), 5),
          ("depthwise_5x5_stride2", (9, 7), 3, 3, (5, 5), (2, 2), (2, 2), (1, 1), 3),
          ("depthwise_multiplier", (5, 5), 3, 6, (3, 3), (2, 1), (1, 0), (1, 1), 3),
          ("patch", (4, 8), 3, 5, (4, 4), (4, 4), (0, 0), (1, 1), 1),
          ("stem_7x7", (11, 9), 3, 2, (7, 7), (2, 2), (3, 3), (1, 1), 1),
          ("all", (9, 10), 4, 4, (3, 2), (2, 3), (2, 1), (2, 3), 2),
          ("1x1_stride2", (7, 6), 3, 2, (1, 1), (2, 2), (0, 0), (1, 1), 1)]
for name, hw, c, f, k, s, p, d, groups in CONV2D:
    case("conv2d_" + name, "conv2d", lambda x, w: nhwc(F.conv2d(nchw(x), torch_weight(w), None, s, p, d, groups)),
         dict(x=rnd(2, *hw, c), w=rnd(*k, c // groups, f)), dict(stride=s, pad=p, dilation=d, groups=groups))
CONV1D = [("plain", 9, 3, 4, 3, 1, 0, 1, 1), ("whisper_1", 11, 5, 4, 3, 1, 1, 1, 1),
          ("whisper_2", 11, 4, 4, 3, 2, 1, 1, 1), ("wav_stem", 37, 1, 4, 10, 5, 0, 1, 1),
          ("dilated", 17, 2, 3, 3, 1, 4, 4, 1), ("groups", 9, 6, 4, 4, 2, 3, 1, 2),
          ("depthwise", 13, 5, 5, 7, 1, 3, 1, 5), ("all", 19, 4, 6, 3, 3, 2, 2, 2)]
for name, t, c, f, k, s, p, d, groups in CONV1D:
    case("conv1d_" + name, "conv1d", lambda x, w: nhwc(F.conv1d(nchw(x), torch_weight(w), None, s, p, d, groups)),
         dict(x=rnd(2, t, c), w=rnd(k, c // groups, f)), dict(stride=[s], pad=[p], dilation=[d], groups=groups))
# Transposed: f channels come in, c go out; the last figure is output padding.
TRANSPOSE2D = [("plain", (4, 3), 3, 2, (3, 3), (1, 1), (0, 0), (1, 1), 1, (0, 0)),
               ("stride2_out_pad", (4, 3), 3, 2, (3, 3), (2, 2), (1, 1), (1, 1), 1, (1, 1)),
               ("uneven", (3, 5), 2, 3, (3, 2), (2, 3), (1, 0), (1, 1), 1, (0, 2)),
               ("dilated", (3, 4), 2, 2, (3, 3), (1, 1), (1, 2), (2, 2), 1, (0, 0)),
               ("groups", (3, 2), 4, 6, (4, 4), (2, 2), (1, 1), (1, 1), 2, (0, 0)),
               ("depthwise", (4, 5), 3, 3, (3, 3), (2, 2), (1, 1), (1, 1), 3, (1, 0))]
for name, hw, f, c, k, s, p, d, groups, extra in TRANSPOSE2D:
    case("conv2d_transpose_" + name, "conv2d_transpose",
         lambda x, w: nhwc(F.conv_transpose2d(nchw(x), torch_weight(w), None, s, p, extra, groups, d)),
         dict(x=rnd(2, *hw, f), w=rnd(*k, c // groups, f)),
         dict(stride=s, pad=p, dilation=d, groups=groups, out_pad=extra))
for name, t, f, c, k, s, p, d, groups, extra in [("plain", 7, 3, 2, 3, 1, 0, 1, 1, 0),
                                                 ("upsample", 7, 4, 3, 5, 3, 1, 1, 1, 2),
                                                 ("all", 6, 4, 6, 3, 2, 2, 3, 2, 1)]:
    case("conv1d_transpose_" + name, "conv1d_transpose",
         lambda x, w: nhwc(F.conv_transpose1d(nchw(x), torch_weight(w), None, s, p, extra, groups, d)),
         dict(x=rnd(2, t, f), w=rnd(k, c // groups, f)),
         dict(stride=[s], pad=[p], dilation=[d], groups=groups, out_pad=[extra]))


def packed_conv1d(x, offsets, w, stride, pad):
    rows = [F.conv1d(x[a:b].T[None], torch_weight(w), None, stride, pad)[0].T for a, b in spans(offsets)]
    return torch.cat(rows)


def spans(o):
    return list(zip(o.tolist()[:-1], o.tolist()[1:]))


for k, s, p in ((3, 1, 1), (3, 2, 1), (5, 3, 0)):
    case(f"packed_conv1d_{k}_{s}_{p}", "packed_conv1d", lambda x, offsets, w: packed_conv1d(x, offsets, w, s, p),
         dict(x=rnd(26, 3), offsets=offsets([9, 5, 12]), w=rnd(k, 3, 4)), dict(kernel=k, stride=s, pad=p))

# ---- pooling, resizing -----------------------------------------------------------------------------------------------
POOL = [("2x2", (7, 9), (2, 2), (2, 2), (0, 0)), ("stem", (9, 7), (3, 3), (2, 2), (1, 1)),
        ("overlap", (5, 6), (3, 2), (1, 1), (1, 1)), ("gaps", (9, 8), (2, 3), (4, 3), (0, 1))]
for name, hw, k, s, p in POOL:
    attr = dict(kernel=k, stride=s, pad=p)
    case("max_pool_" + name, "max_pool", lambda x: nhwc(F.max_pool2d(nchw(x), k, s, p)), dict(x=rnd(2, *hw, 2)), attr)
    for count in (0, 1) if any(p) else (1,):
        case(f"avg_pool_{name}" + ("_count_pad" if count and any(p) else ""), "avg_pool",
             lambda x: nhwc(F.avg_pool2d(nchw(x), k, s, p, False, bool(count))), dict(x=rnd(2, *hw, 2)),
             dict(attr, count_pad=count))
for hw, to in (((7, 9), (3, 4)), ((5, 6), (1, 1)), ((3, 4), (5, 7)), ((8, 6), (4, 3))):
    case(f"adaptive_avg_pool_{hw[0]}x{hw[1]}_{to[0]}x{to[1]}", "adaptive_avg_pool",
         lambda x: nhwc(F.adaptive_avg_pool2d(nchw(x), to)), dict(x=rnd(2, *hw, 2)), dict(size=to))
for hw, to in (((3, 4), (7, 9)), ((7, 9), (3, 4)), ((5, 5), (5, 5)), ((1, 3), (4, 6)), ((6, 4), (1, 8))):
    tag = f"{hw[0]}x{hw[1]}_{to[0]}x{to[1]}"
    for op, more in (("bilinear", dict(align_corners=False)), ("nearest", {})):
        case(f"resize_{op}_{tag}", "resize_" + op, lambda x: nhwc(F.interpolate(nchw(x), to, mode=op, **more)),
             dict(x=rnd(2, *hw, 2)), dict(size=to))


# ---- attention over packed sequences ---------------------------------------------------------------------------------
def attention(q, k, v, q_offsets, k_offsets, bias=None, heads=1, causal=0):
    out = torch.zeros(q.shape[0], v.shape[1], dtype=q.dtype)
    split = lambda x: x.reshape(x.shape[0], heads, -1).transpose(0, 1) # (T, H*D) -> (H, T, D)
    for (qa, qb), (ka, kb) in zip(spans(q_offsets), spans(k_offsets)):
        nq, nk = qb - qa, kb - ka
        if nq == 0:
            continue
        mask = torch.zeros(heads, nq, nk, dtype=q.dtype) if bias is None else bias[:, :nq, :nk]
        if causal:
            mask = mask.masked_fill(torch.arange(nk)[None] > torch.arange(nq)[:, None] + nk - nq, -math.inf)
        y = F.scaled_dot_product_attention(
            split(q[qa:qb])[None],
            split(k[ka:kb])[None],
            split(v[ka:kb])[None], mask[None])
        out = torch.cat([out[:qa], y[0].transpose(0, 1).reshape(nq, -1), out[qb:]])
    return out


# name, heads, head width, query lengths, key lengths, padding rows, causal, bias
for name, h, d, nq, nk, pad, causal, bias in [("bidirectional", 2, 3, [5, 1, 7], [5, 1, 7], 0, 0, 0),
                                              ("causal", 2, 4, [6, 1, 9, 2], [6, 1, 9, 2], 0, 1, 0),
                                              ("cross", 3, 2, [4, 1, 3], [2, 7, 5], 0, 0, 0),
                                              ("bias", 2, 3, [5, 3], [5, 3], 0, 0, 1),
                                              ("cross_bias", 2, 2, [2, 4], [6, 3], 0, 0, 1),
                                              ("causal_bias", 1, 5, [4, 6], [4, 6], 0, 1, 1),
                                              ("causal_longer_keys", 1, 3, [2, 1], [5, 4], 0, 1, 0),
                                              ("padded_with_empty", 2, 2, [3, 0, 4], [3, 0, 4], 3, 0, 0),
                                              ("one_long", 1, 4, [41], [41], 0, 1, 0),
                                              ("wide_head", 1, 40, [3, 2], [3, 2], 1, 1, 0)]:
    x = dict(q=rnd(sum(nq) + pad, h * d), k=rnd(sum(nk) + pad, h * d), v=rnd(sum(nk) + pad, h * d),
             q_offsets=offsets(nq), k_offsets=offsets(nk))
    if bias:
        x["bias"] = rnd(h, max(nq + nk), max(nq + nk))
    case("attention_" + name, "attention", lambda *x: attention(*x, heads=h, causal=causal), x,
         dict(heads=h, causal=causal))

# ---- losses ----------------------------------------------------------------------------------------------------------
for name, n, c, smoothing, ignore in (("plain", 6, 5, 0.0, -100), ("smooth", 6, 7, 0.1, -100), ("ignore", 7, 4, 0.0, 2),
                                      ("smooth_ignore", 7, 4, 0.2, -1), ("two", 3, 2, 0.3, -100)):
    target = torch.randint(0, c, (n,), generator=G)
    if name.endswith("ignore"):
        target[[1, 4]] = ignore
    case(
        "cross_entropy_" + name, "cross_entropy", lambda logits, target: F.cross_entropy(
            logits, target.long(), reduction="none", label_smoothing=smoothing, ignore_index=ignore),
        dict(logits=rnd(n, c) * 3, target=target.int()), dict(smoothing=smoothing, ignore=ignore))


def ctc(logits, offsets, targets, target_offsets, blank, zero_infinity):
    """From logits: PyTorch's gradient of ctc_loss by its log-probabilities counts on the log_softmax before it."""
    y = [
        F.ctc_loss(
            torch.log_softmax(logits[a:b], -1)[:, None], targets[c:d].long()[None], (b - a,), (d - c,), blank, "none",
            zero_infinity) for (a, b), (c, d) in zip(spans(offsets), spans(target_offsets))
    ]
    return torch.cat(y)


# The last two targets do not fit: longer than their input; and as long, but with a repeat that needs a blank between.
TARGETS, INPUTS = [[1, 2, 2, 3], [], [4], [3, 1, 2], [2, 2]], [9, 4, 1, 2, 2]
for name, n, blank, zero in (("possible", 3, 0, 0), ("zero_infinity", 5, 0, 1), ("infinite", 5, 0, 0), ("blank_last", 3,
                                                                                                        5, 1)):
    x = dict(logits=rnd(sum(INPUTS[:n]), 6) * 2, offsets=offsets(INPUTS[:n]), targets=ints(sum(TARGETS[:n], [])),
             target_offsets=offsets([len(t) for t in TARGETS[:n]]))
    case("ctc_" + name, "ctc", lambda *x: ctc(*x, blank, bool(zero)), x, dict(blank=blank, zero_infinity=zero),
         grad=[] if name == "infinite" else None)

# ---- Fourier ---------------------------------------------------------------------------------------------------------
pairs = lambda z: torch.view_as_real(z)
for n in (1, 2, 7, 12, 16, 25):
    case(f"rfft_{n}", "rfft", lambda x: pairs(torch.fft.rfft(x)), dict(x=rnd(2, n)))
    case(f"irfft_{n}", "irfft", lambda x: torch.fft.irfft(torch.view_as_complex(x), n=n), dict(x=rnd(2, n // 2 + 1, 2)),
         dict(n=n))
for length, n, hop in ((41, 16, 5), (33, 15, 7), (50, 20, 20), (24, 24, 3)):
    case(
        f"stft_{length}_{n}_{hop}", "stft", lambda x, window: pairs(
            torch.stft(x, n, hop, window=window, center=False, return_complex=True).transpose(1, 2)),
        dict(x=rnd(2, length), window=rnd(n, lo=0.1, hi=1)), dict(hop=hop))

save(FOLDER, "ops.safetensors", TENSORS)
save_json(FOLDER, "ops.json", dict(kind="ops", seed=SEED, versions=versions(), cases=CASES))
print(f"{FOLDER}: {len(CASES)} cases, {sum(t.numel() * t.element_size() for t in TENSORS.values())} bytes of tensors")
