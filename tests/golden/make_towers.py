"""Tiny towers with random weights, their outputs, losses and gradients: `make_towers.py SEED [size=N ...] OUT`.

OUT/bert      transformers' BertModel: bidirectional, learned positions, token types (all of the first kind, unless
              segments=2, which triad's text tower does not take), GELU, norms after the sums
OUT/vit       transformers' ViTForImageClassification: class token, norms before, GELU
OUT/whisper   transformers' WhisperEncoder: convolutions k3 s1 and k3 s2 with GELU, sinusoidal positions, norms before
OUT/resnet_basic, OUT/resnet_bottleneck   a residual network with torchvision's names, batch norm in training mode

Each folder: config.json, weights.safetensors (f32), inputs.safetensors, expected.safetensors (computed in f64, written
as f32; loss f64; grad.<name>). bert, vit and whisper have Hugging Face's names and layouts: linear (out, in),
convolution (out, in, k...). The residual networks are in triad's layouts: images (B, H, W, 3), convolution (kh, kw, in,
out), linear (in, out), their gradients alike.

Sequences are packed: (T, ...) with offsets (B + 1). The loss of bert and whisper is mean(w * y) with the stored w; that
of the others is the mean cross-entropy with the stored labels.
"""
from common import *
import torch.nn.functional as F
from torch import nn
from transformers import BertConfig, BertModel, ViTConfig, ViTForImageClassification, WhisperConfig
from transformers.models.whisper.modeling_whisper import WhisperEncoder

SIZES = dict(width=16, layers=2, heads=2, mlp=40, batch=3, vocab=31, segments=1, context=12, image=20, patch=4, bins=10,
             frames=38, classes=5)
SEED, Z, OUT = arguments(SIZES, "SEED [size=N ...] OUT_FOLDER")
COMMON = dict(hidden_size=Z["width"], num_hidden_layers=Z["layers"], num_attention_heads=Z["heads"],
              intermediate_size=Z["mlp"], hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0, hidden_act="gelu",
              layer_norm_eps=1e-6)


def write(kind, g, model, forward, inputs, config, turn=lambda n, t: t):
    """forward(model, inputs) -> {"loss", outputs...}; run in f64 for the truth, in f32 to see what that is off by."""
    folder = os.path.join(OUT, kind)
    os.makedirs(folder, exist_ok=True)
    weights = {n: p.detach().clone() for n, p in model.named_parameters()}
    buffers = {n: b.clone() for n, b in model.named_buffers() if "running" in n}
    runs = {}
    for dtype in (torch.float32, torch.float64):
        model = model.to(dtype)
        with torch.no_grad():
            for n, t in list(model.named_parameters()) + list(model.named_buffers()):
                if n in weights or n in buffers:
                    t.copy_(weights[n] if n in weights else buffers[n])
        model.zero_grad()
        x = {k: v.to(dtype) if v.is_floating_point() else v.long() for k, v in inputs.items()}
        out = forward(model, x)
        out["loss"].backward()
        trained = {n for n, p in model.named_parameters() if p.requires_grad}
        runs[dtype] = out | {k: v for k, v in gradients(model).items() if k[5:] in trained}
    f32, f64 = runs[torch.float32], runs[torch.float64]
    grads = {k: v for k, v in f64.items() if k.startswith("grad.")}
    error = dict(loss_relative=abs(f32["loss"].item() / f64["loss"].item() - 1), **gradient_error(f32, grads))
    turned = lambda group: {n: turn(n.removeprefix("grad."), t) for n, t in group.items()}
    save(folder, "weights.safetensors", turned(weights | buffers))
    save(folder, "inputs.safetensors", inputs)
    save(folder, "expected.safetensors", {k: v if k == "loss" else v.float() for k, v in turned(f64).items()})
    save_json(folder, "config.json", dict(kind=kind, seed=SEED, **config, torch_f32_error=error, versions=versions()))
    print(f"{folder}: loss {f64['loss'].item():.6f}; PyTorch's f32 is off by {error}")


def lengths(g, longest):
    """As many as the batch has: the longest, one, and others between."""
    n = [longest, 1] + torch.randint(2, longest, (Z["batch"],), generator=g).tolist()
    return n[:Z["batch"]]


def offsets(n):
    return torch.tensor([sum(n[:i]) for i in range(len(n) + 1)], dtype=torch.int32)


def spans(o):
    return list(zip(o.tolist()[:-1], o.tolist()[1:]))


def bert():
    g = generator(SEED)
    model = BertModel._from_config(
        BertConfig(vocab_size=Z["vocab"], max_position_embeddings=Z["context"], type_vocab_size=2, pad_token_id=0,
                   **COMMON), add_pooling_layer=False, **ATTENTION).eval()
    randomise(model, g)
    n = lengths(g, Z["context"])
    token = torch.randint(1, Z["vocab"], (sum(n),), generator=g, dtype=torch.int32)
    kind = torch.randint(0, Z["segments"], (sum(n),), generator=g, dtype=torch.int32)
    w = torch.randn(sum(n), Z["width"], generator=g)

    def forward(m, x): # padded with a mask, and the rows of tokens taken from it
        o = spans(x["offsets"])
        ids, types, mask = torch.zeros(3, len(o), Z["context"], dtype=torch.long)
        for i, (a, b) in enumerate(o):
            ids[i, :b - a], types[i, :b - a], mask[i, :b - a] = x["tokens"][a:b], x["token_types"][a:b], 1
        y = m(input_ids=ids, token_type_ids=types, attention_mask=mask).last_hidden_state[mask.bool()]
        return dict(y=y, loss=(x["w"] * y).mean())

    write(
        "bert", g, model, forward, dict(tokens=token, token_types=kind, offsets=offsets(n), w=w),
        dict(layout="hugging_face", eps=1e-6, activation="gelu", **pick("width layers heads mlp vocab context batch")))


def vit():
    g = generator(SEED + 1)
    model = ViTForImageClassification._from_config(
        ViTConfig(image_size=Z["image"], patch_size=Z["patch"], num_labels=Z["classes"], **COMMON), **ATTENTION).eval()
    randomise(model, g)
    labels = torch.randint(0, Z["classes"], (Z["batch"],), generator=g, dtype=torch.int32)

    def forward(m, x):
        logits = m(pixel_values=x["pixel_values"]).logits
        return dict(logits=logits, loss=F.cross_entropy(logits, x["labels"]))

    write(
        "vit", g, model, forward,
        dict(pixel_values=torch.randn(Z["batch"], 3, Z["image"], Z["image"], generator=g), labels=labels),
        dict(layout="hugging_face", eps=1e-6, activation="gelu",
             **pick("width layers heads mlp image patch classes batch")))


def whisper():
    """Clips of several lengths, each alone through the encoder's own layers (its forward takes one fixed length only;
    at that length both must agree)."""
    g = generator(SEED + 2)
    longest = (Z["frames"] + 1) // 2
    model = WhisperEncoder._from_config(
        WhisperConfig(num_mel_bins=Z["bins"], d_model=Z["width"], encoder_layers=Z["layers"],
                      encoder_attention_heads=Z["heads"], encoder_ffn_dim=Z["mlp"], max_source_positions=longest,
                      dropout=0.0, attention_dropout=0.0, activation_function="gelu", pad_token_id=0),
        **ATTENTION).eval()
    randomise(model, g)
    half = Z["width"] // 2
    angle = torch.arange(longest)[:, None] * torch.exp(-math.log(10000) /
                                                       (half - 1) * torch.arange(half, dtype=torch.float64))
    with torch.no_grad():
        model.embed_positions.weight.copy_(torch.cat([angle.sin(), angle.cos()], 1))
    n = lengths(g, Z["frames"])
    after = [(m + 1) // 2 for m in n]
    w = torch.randn(sum(after), Z["width"], generator=g)

    def encode(m, mel): # (T, bins) -> (T', width)
        h = F.gelu(m.conv2(F.gelu(m.conv1(mel.T[None])))).transpose(1, 2)
        h = h + m.embed_positions.weight[:h.shape[1]]
        for layer in m.layers:
            h = layer(h, None)
        return m.layer_norm(h)[0]

    def forward(m, x):
        y = torch.cat([encode(m, x["mel"][a:b]) for a, b in spans(x["offsets"])])
        if n[0] % 2 == 0:
            assert torch.allclose(m(x["mel"][:n[0]].T[None])[0][0], y[:after[0]], rtol=1e-5, atol=1e-5)
        return dict(y=y, loss=(x["w"] * y).mean())

    write(
        "whisper", g, model, forward,
        dict(mel=torch.randn(sum(n), Z["bins"], generator=g), offsets=offsets(n), out_offsets=offsets(after), w=w),
        dict(layout="hugging_face", eps=1e-5, activation="gelu", positions=longest,
             **pick("width layers heads mlp bins batch")))


def conv(i, o, k, stride=1):
    return nn.Conv2d(i, o, k, stride, k // 2, bias=False)


class Block(nn.Module):
    """Basic: 3x3, 3x3. Bottleneck: 1x1, 3x3 (with the stride), 1x1 to four times the width. He et al. 2016, fig. 5."""
    def __init__(self, i, width, stride, bottleneck):
        super().__init__()
        o = width * (4 if bottleneck else 1)
        shapes = [(i, width, 1, 1), (width, width, 3, stride),
                  (width, o, 1, 1)] if bottleneck else [(i, width, 3, stride), (width, o, 3, 1)]
        for j, shape in enumerate(shapes, 1):
            self.add_module(f"conv{j}", conv(*shape))
            self.add_module(f"bn{j}", nn.BatchNorm2d(shape[1]))
        self.n, self.downsample = len(shapes), None
        if stride != 1 or i != o:
            self.downsample = nn.Sequential(conv(i, o, 1, stride), nn.BatchNorm2d(o))

    def forward(self, x):
        y = x
        for j in range(1, self.n + 1):
            y = self.get_submodule(f"bn{j}")(self.get_submodule(f"conv{j}")(y))
            y = F.relu(y) if j < self.n else y
        return F.relu(y + (x if self.downsample is None else self.downsample(x)))


class ResNet(nn.Module):
    def __init__(self, stem, widths, blocks, bottleneck, classes):
        super().__init__()
        self.conv1, self.bn1 = conv(3, widths[0], *((7, 2) if stem == "7x7" else (3, 1))), nn.BatchNorm2d(widths[0])
        self.pool = nn.MaxPool2d(3, 2, 1) if stem == "7x7" else nn.Identity()
        i, stages = widths[0], []
        for s, (width, count) in enumerate(zip(widths, blocks)):
            rows = []
            for b in range(count):
                rows.append(Block(i, width, 2 if s > 0 and b == 0 else 1, bottleneck))
                i = width * (4 if bottleneck else 1)
            self.add_module(f"layer{s + 1}", nn.Sequential(*rows))
        self.stages, self.fc = len(widths), nn.Linear(i, classes)

    def forward(self, x):
        x = self.pool(F.relu(self.bn1(self.conv1(x))))
        for s in range(1, self.stages + 1):
            x = self.get_submodule(f"layer{s}")(x)
        return self.fc(x.mean((2, 3)))


def resnet(kind, seed, stem, widths, blocks, bottleneck, size):
    g = generator(seed)
    model = ResNet(stem, widths, blocks, bottleneck, Z["classes"]).train()
    randomise(model, g)
    with torch.no_grad():
        for n, b in model.named_buffers():
            if "running" in n:
                b.copy_(
                    torch.rand(b.shape, generator=g) + 0.5 if n.endswith("var") else 0.3 *
                    torch.randn(b.shape, generator=g))
    labels = torch.randint(0, Z["classes"], (Z["batch"],), generator=g, dtype=torch.int32)

    def forward(m, x):
        pixels = x["pixel_values"].permute(0, 3, 1, 2)
        with torch.no_grad():
            before = m.eval()(pixels)
        logits = m.train()(pixels)
        state = {"state." + n: b.clone() for n, b in m.named_buffers() if "running" in n}
        return dict(logits=logits, logits_eval=before, loss=F.cross_entropy(logits, x["labels"]), **state)

    def turn(name, t):
        return t.permute(2, 3, 1, 0) if t.ndim == 4 else t.T if name == "fc.weight" else t

    write(
        kind, g, model, forward, dict(pixel_values=torch.randn(Z["batch"], *size, 3, generator=g), labels=labels),
        dict(
            layout="triad", eps=1e-5, momentum=0.1, stem=stem, widths=widths, blocks=blocks, bottleneck=int(bottleneck),
            size=size, **pick("classes batch"),
            about="logits and loss in training mode; state.*: running statistics after it (variance with n - 1); "
            "logits_eval: with the statistics of weights.safetensors"), turn)


def pick(names):
    return {n: Z[n] for n in names.split()}


bert()
vit()
whisper()
resnet("resnet_basic", SEED + 3, "3x3", [6, 10], [1, 2], False, [13, 13])
resnet("resnet_bottleneck", SEED + 4, "7x7", [4, 6], [2, 1], True, [29, 29])
