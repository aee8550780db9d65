"""The models of the bench rows with random weights, their outputs, losses and gradients:
`make_models.py SEED [size=N ...] OUT`.

OUT/resnet_basic, OUT/resnet_bottleneck, OUT/resnet_3x3   torchvision's ResNet; the last with a stem of 3x3, no pooling
OUT/efficientnet   torchvision's EfficientNet (MBConv, squeeze and excitation, SiLU)
OUT/vit_timm       timm's VisionTransformer
OUT/open_clip      open_clip's CLIP, with GELU as its ViT-B-32
OUT/gpt2           transformers' GPT2LMHeadModel
OUT/wav2vec2       transformers' Wav2Vec2ForCTC

Each folder: as make_towers.py's, names and layouts those of the reference. Convolutional networks run in training mode
(batch statistics): state.* are the running statistics after it (variance with n - 1), logits_eval the logits with those
of weights.safetensors. The loss is that of the published model: the mean cross-entropy of labels or of the next token,
CLIP's contrastive loss, CTC's mean over items of each loss by its labels. Dropout and drop path are off.

Without sizes the models are tiny and made of the reference's own blocks. `full=1` writes the published models (about
3 GB): ResNet-18, 34 and 50, EfficientNet-B0 to B3, ViT-S/16, CLIP ViT-B/32, and GPT-2 and Wav2Vec 2.0 as the bench has
them; `only=NAME` writes one of them.
"""
from functools import partial

from common import *
import torch.nn.functional as F
from torch import nn

SIZES = dict(width=16, layers=2, heads=2, batch=3, vocab=31, context=12, image=20, patch=4, samples=230, classes=5,
             pixels=37, full=0, only="")
SEED, Z, OUT = arguments(SIZES, "SEED [size=N ...] OUT_FOLDER")
FULL = Z["full"] != 0
torch.manual_seed(SEED) # what `randomise` leaves as the model begins


def pick(names):
    return {n: Z[n] for n in names.split()}


def classes(g, n):
    return torch.randint(0, n, (Z["batch"],), generator=g, dtype=torch.int32)


def images(g, size):
    return torch.randn(Z["batch"], 3, size, size, generator=g)


def classify(m, x):
    logits = m(x["pixel_values"])
    return dict(logits=logits, loss=F.cross_entropy(logits, x["labels"]))


# ---- convolutional networks: torchvision ----


def convolutional(kind, g, model, size, count, config):
    randomise(model, g)
    with torch.no_grad():
        for n, b in model.named_buffers():
            if "running" in n:
                r = torch.randn(b.shape, generator=g)
                b.copy_(0.5 + r.abs() if n.endswith("var") else 0.3 * r)

    def forward(m, x):
        with torch.no_grad():
            before = m.eval()(x["pixel_values"])
        y = classify(m.train(), x)
        state = {"state." + n: b.clone() for n, b in m.named_buffers() if "running" in n}
        return dict(**y, logits_eval=before, **state)

    write(OUT, SEED, kind, model, forward, dict(pixel_values=images(g, size), labels=classes(g, count)),
          dict(eps=1e-5, momentum=0.1, image=size, classes=count, batch=Z["batch"], **config))


def resnet(kind, seed, stem, widths, blocks, bottleneck, published=None):
    from torchvision.models import resnet as tv
    block = tv.Bottleneck if bottleneck else tv.BasicBlock
    if FULL:
        widths, stem = [64, 128, 256, 512], "7x7"
        model, count, size = getattr(tv, published)(), 1000, 96
        blocks = [len(getattr(model, f"layer{i}")) for i in range(1, 5)]
    else:
        # torchvision's class has fixed widths and four stages: its own method makes narrower and fewer ones.
        count, size = Z["classes"], Z["pixels"]
        model = tv.ResNet(block, [1, 1, 1, 1], num_classes=count)
        model.inplanes = widths[0]
        model.conv1 = nn.Conv2d(3, widths[0], 7, 2, 3, bias=False)
        model.bn1 = nn.BatchNorm2d(widths[0])
        for i in range(4):
            rows = model._make_layer(block, widths[i], blocks[i], 1 if i == 0 else 2) if i < len(widths) else nn.Identity()
            setattr(model, f"layer{i + 1}", rows)
        model.fc = nn.Linear(model.inplanes, count)
        if stem == "3x3":
            model.conv1, model.maxpool = nn.Conv2d(3, widths[0], 3, 1, 1, bias=False), nn.Identity()
            size = size // 2 - 5
    convolutional(kind, generator(seed), model, size, count,
                  dict(kind="resnet", stem=stem, widths=widths, blocks=blocks, bottleneck=int(bottleneck)))


def efficientnet(kind, seed, variant=None):
    from torchvision.models import efficientnet as tv
    if FULL:
        model = getattr(tv, f"efficientnet_b{variant}")(dropout=0, stochastic_depth_prob=0)
        return convolutional(kind, generator(seed), model, 96, 1000, dict(kind="efficientnet", variant=variant))
    width, depth, count = 0.25, 1.2, Z["classes"]
    stages = [[1, 3, 1, 16, 1], [6, 3, 2, 24, 2], [4, 5, 2, 40, 1], [3, 3, 1, 56, 1]]
    make, rows, last = partial(tv.MBConvConfig, width_mult=width, depth_mult=depth), [], 32
    for e, k, s, out, n in stages:
        rows.append(make(e, k, s, last, out, n))
        last = out
    model = tv.EfficientNet(rows, dropout=0, stochastic_depth_prob=0, num_classes=count)
    convolutional(kind, generator(seed), model, Z["pixels"], count,
                  dict(kind="efficientnet", variant=-1, width_scale=width, depth_scale=depth, stem=32, stages=stages))


# ---- transformers ----


def vit(kind, seed):
    import timm
    from timm.models.vision_transformer import VisionTransformer
    g = generator(seed)
    if FULL:
        model = timm.create_model("vit_small_patch16_224")
        config = dict(width=384, layers=12, heads=6, mlp=1536, image=224, patch=16, classes=1000)
    else:
        config = dict(mlp=4 * Z["width"], **pick("width layers heads image patch classes"))
        model = VisionTransformer(img_size=Z["image"], patch_size=Z["patch"], embed_dim=Z["width"], depth=Z["layers"],
                                  num_heads=Z["heads"], num_classes=Z["classes"])
    randomise(model.eval(), g)
    with torch.no_grad():
        model.pos_embed.copy_(0.4 * torch.randn(model.pos_embed.shape, generator=g))
    write(OUT, SEED, kind, model, classify,
          dict(pixel_values=images(g, config["image"]), labels=classes(g, config["classes"])),
          dict(eps=1e-6, activation="gelu", batch=Z["batch"], **config))


def open_clip(kind, seed):
    import open_clip as oc
    g, b = generator(seed), Z["batch"]
    if FULL:
        embed, image, patch, vision, text = 512, 224, 32, (768, 12, 64), (512, 12, 8)
        vocab, context = 49408, 77
    else:
        embed, image, patch = 20, Z["image"], Z["patch"]
        vision, text = (Z["width"], Z["layers"], Z["width"] // Z["heads"]), (Z["width"] + 4 * Z["heads"], Z["layers"], Z["heads"])
        vocab, context = Z["vocab"], Z["context"]
    model = oc.model.CLIP(
        embed, dict(image_size=image, patch_size=patch, width=vision[0], layers=vision[1], head_width=vision[2]),
        dict(context_length=context, vocab_size=vocab, width=text[0], layers=text[1], heads=text[2])).eval()
    randomise(model, g)
    with torch.no_grad():
        model.logit_scale.fill_(2.6592)
        model.visual.class_embedding.copy_(0.4 * torch.randn(vision[0], generator=g))
    n = [max(2, k) for k in lengths(g, b, context)]
    rows = [torch.randint(1, vocab - 1, (k,), generator=g, dtype=torch.int32) for k in n]
    for row in rows:
        row[-1] = vocab - 1 # the end token is the largest id, where open_clip's argmax looks

    def forward(m, x):
        ids = torch.zeros(b, context, dtype=torch.long)
        for i, (p, q) in enumerate(spans(x["offsets"])):
            ids[i, :q - p] = x["tokens"][p:q]
        u, v, scale = m(x["pixel_values"], ids)
        loss = oc.ClipLoss()(u, v, scale)
        return dict(image_embeds=u, text_embeds=v, logits=scale * u @ v.T, loss=loss)

    write(OUT, SEED, kind, model, forward,
          dict(pixel_values=images(g, image), tokens=torch.cat(rows), offsets=offsets(n)),
          dict(eps=1e-5, activation="gelu", vision_width=vision[0], vision_layers=vision[1],
               vision_heads=vision[0] // vision[2], vision_mlp=4 * vision[0], text_width=text[0], text_layers=text[1],
               text_heads=text[2], text_mlp=4 * text[0], projection=embed, image=image, patch=patch, vocab=vocab,
               context=context, batch=b))


def gpt2(kind, seed):
    from transformers import GPT2Config, GPT2LMHeadModel
    g = generator(seed)
    z = dict(width=512, layers=8, heads=8, vocab=16384, context=256) if FULL else pick(
        "width layers heads vocab context")
    model = GPT2LMHeadModel._from_config(
        GPT2Config(vocab_size=z["vocab"], n_positions=z["context"], n_embd=z["width"], n_layer=z["layers"],
                   n_head=z["heads"], resid_pdrop=0, embd_pdrop=0, attn_pdrop=0, bos_token_id=0, eos_token_id=0),
        **ATTENTION).eval()
    randomise(model, g)
    with torch.no_grad():
        model.transformer.wpe.weight.copy_(0.4 * torch.randn(model.transformer.wpe.weight.shape, generator=g))
    n = lengths(g, Z["batch"], z["context"])
    tokens = torch.randint(0, z["vocab"], (sum(n),), generator=g, dtype=torch.int32)

    def forward(m, x): # transformers' own loss is f32 in an f64 model: held against it, not taken from it
        o = spans(x["offsets"])
        logits = torch.cat([m(x["tokens"][None, p:q]).logits[0] for p, q in o])
        before = torch.cat([torch.arange(p, q - 1) for p, q in o])
        loss = F.cross_entropy(logits[before], x["tokens"][before + 1])
        ids, labels = torch.zeros(len(o), z["context"], dtype=torch.long), torch.full((len(o), z["context"]), -100)
        for i, (p, q) in enumerate(o):
            ids[i, :q - p] = labels[i, :q - p] = x["tokens"][p:q]
        with torch.no_grad():
            assert torch.allclose(m(ids, attention_mask=(labels != -100).long(), labels=labels).loss.to(loss.dtype), loss,
                                  rtol=1e-5)
        return dict(logits=logits, loss=loss)

    write(OUT, SEED, kind, model, forward, dict(tokens=tokens, offsets=offsets(n)),
          dict(eps=1e-5, activation="gelu_tanh", mlp=4 * z["width"], batch=Z["batch"], **z))


def wav2vec2(kind, seed):
    from transformers import Wav2Vec2Config, Wav2Vec2ForCTC
    g, b = generator(seed), Z["batch"]
    z = dict(width=768, layers=12, heads=12, mlp=3072, vocab=32, channels=512, position_kernel=128, position_groups=16,
             kernels=[10, 3, 3, 3, 3, 2, 2], strides=[5, 2, 2, 2, 2, 2, 2], samples=16000) if FULL else dict(
                 mlp=40, channels=6, position_kernel=6, position_groups=4, kernels=[10, 3, 2], strides=[5, 2, 2],
                 **pick("width layers heads vocab samples"))
    model = Wav2Vec2ForCTC._from_config(
        Wav2Vec2Config(vocab_size=z["vocab"], hidden_size=z["width"], num_hidden_layers=z["layers"],
                       num_attention_heads=z["heads"], intermediate_size=z["mlp"],
                       conv_dim=[z["channels"]] * len(z["kernels"]), conv_kernel=z["kernels"], conv_stride=z["strides"],
                       num_conv_pos_embeddings=z["position_kernel"],
                       num_conv_pos_embedding_groups=z["position_groups"], hidden_dropout=0, attention_dropout=0,
                       activation_dropout=0, feat_proj_dropout=0, final_dropout=0, layerdrop=0, mask_time_prob=0,
                       apply_spec_augment=False, ctc_loss_reduction="mean", pad_token_id=0), **ATTENTION).eval()
    randomise(model, g)
    with torch.no_grad(): # lengths of the position kernel's taps: near those that the directions have
        gain = model.wav2vec2.encoder.pos_conv_embed.conv.parametrizations.weight.original0
        direction = model.wav2vec2.encoder.pos_conv_embed.conv.parametrizations.weight.original1
        near = 1 + 0.2 * torch.randn(gain.shape, generator=g)
        gain.copy_(near * direction.norm(dim=(0, 1), keepdim=True))
    n = [3, 0, 2, 1] * b
    labels = torch.randint(1, z["vocab"], (sum(n[:b]),), generator=g, dtype=torch.int32)
    ends = offsets(n[:b])

    def forward(m, x): # transformers' own loss is f32 in an f64 model: held against it, not taken from it
        logits = m(x["wave"]).logits
        o = spans(x["target_offsets"])
        count = torch.tensor([q - p for p, q in o])
        loss = F.ctc_loss(F.log_softmax(logits, -1).transpose(0, 1), x["targets"], torch.full((b,), logits.shape[1]),
                          count, blank=0)
        padded = torch.full((b, max(count.tolist())), -100)
        for i, (p, q) in enumerate(o):
            padded[i, :q - p] = x["targets"][p:q]
        with torch.no_grad():
            assert torch.allclose(m(x["wave"], labels=padded).loss.to(loss.dtype), loss, rtol=1e-5)
        return dict(logits=logits, loss=loss)

    write(OUT, SEED, kind, model, forward,
          dict(wave=torch.randn(b, z["samples"], generator=g), targets=labels, target_offsets=ends),
          dict(eps=1e-5, activation="gelu", batch=b, **z))


TINY = dict(
    resnet_basic=lambda k: resnet(k, SEED, "7x7", [6, 10], [1, 2], False),
    resnet_bottleneck=lambda k: resnet(k, SEED + 1, "7x7", [4, 6], [2, 1], True),
    resnet_3x3=lambda k: resnet(k, SEED + 2, "3x3", [6, 10], [1, 1], False),
    efficientnet=lambda k: efficientnet(k, SEED + 3))
PUBLISHED = dict(
    resnet18=lambda k: resnet(k, SEED, None, None, None, False, k),
    resnet34=lambda k: resnet(k, SEED, None, None, None, False, k),
    resnet50=lambda k: resnet(k, SEED, None, None, None, True, k),
    **{f"efficientnet_b{v}": lambda k, v=v: efficientnet(k, SEED, v) for v in range(4)})
BOTH = dict(vit_timm=lambda k: vit(k, SEED + 4), open_clip=lambda k: open_clip(k, SEED + 5),
            gpt2=lambda k: gpt2(k, SEED + 6), wav2vec2=lambda k: wav2vec2(k, SEED + 7))
for name, make in ((PUBLISHED if FULL else TINY) | BOTH).items():
    if Z["only"] in ("", name):
        make(name)
