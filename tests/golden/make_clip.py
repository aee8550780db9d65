"""A tiny CLIP by transformers' CLIPModel, its loss, gradients and 20 AdamW steps: `make_clip.py SEED [size=N ...] OUT`.

config.json           every size and setting
weights.safetensors   f32, names and layouts of Hugging Face: linear (out, in), convolution (out, in, kh, kw)
inputs.safetensors    pixel_values (B, 3, H, W) f32; input_ids (B, context) int32, 0 after the end token; the same
                      tokens packed: tokens (T) int32 with offsets (B + 1) int32
expected.safetensors  image_embeds, text_embeds (B, projection; of length 1), logits (B, B; rows are images), loss
                      (f64), grad.<name> of every parameter. Computed in f64.
steps.json            the loss before each of 20 AdamW steps on this same batch and after the last, and the gradient's
                      norm before clipping: in f64 (the truth) and in f32, with what PyTorch's own f32 is off by
"""
from common import *
from transformers import CLIPConfig, CLIPModel

SIZES = dict(image=32, patch=8, vision_width=32, vision_layers=2, vision_heads=2, vision_mlp=80, text_width=24,
             text_layers=2, text_heads=2, text_mlp=56, vocab=99, context=16, projection=20, batch=5, steps=20,
             activation="quick_gelu")
ADAMW = dict(lr=2e-4, betas=[0.9, 0.98], eps=1e-6, weight_decay=0.1, clip=1.0)
LOGIT_SCALE = 2.6592


def build(z, g):
    common = dict(hidden_act=z["activation"], attention_dropout=0.0, layer_norm_eps=1e-5)
    model = CLIPModel._from_config(
        CLIPConfig(
            projection_dim=z["projection"], logit_scale_init_value=LOGIT_SCALE,
            vision_config=dict(common, image_size=z["image"], patch_size=z["patch"], hidden_size=z["vision_width"],
                               num_hidden_layers=z["vision_layers"], num_attention_heads=z["vision_heads"],
                               intermediate_size=z["vision_mlp"], projection_dim=z["projection"]),
            text_config=dict(common, vocab_size=z["vocab"], max_position_embeddings=z["context"],
                             hidden_size=z["text_width"], num_hidden_layers=z["text_layers"],
                             num_attention_heads=z["text_heads"], intermediate_size=z["text_mlp"],
                             projection_dim=z["projection"], pad_token_id=0, bos_token_id=z["vocab"] - 2,
                             eos_token_id=z["vocab"] - 1)), **ATTENTION)
    randomise(model, g)
    with torch.no_grad():
        model.logit_scale.fill_(LOGIT_SCALE)
    return model.eval()


def captions(z, g):
    """Lengths from the shortest (start, end) to the whole context; the end token is the largest id, so that both rules
    (argmax, end token's place) find it."""
    b, n = z["batch"], z["context"]
    lengths = [2, n] + torch.randint(3, n + 1, (b,), generator=g).tolist()
    ids, packed, offsets = torch.zeros(b, n, dtype=torch.int32), [], [0]
    for i in range(b):
        length = lengths[i]
        row = torch.randint(1, z["vocab"] - 2, (length,), generator=g, dtype=torch.int32)
        row[0], row[-1] = z["vocab"] - 2, z["vocab"] - 1
        ids[i, :length] = row
        packed.append(row)
        offsets.append(offsets[-1] + length)
    return ids, torch.cat(packed), torch.tensor(offsets, dtype=torch.int32)


def forward(model, x):
    pixels = x["pixel_values"].to(model.logit_scale.dtype)
    return model(input_ids=x["input_ids"].long(), pixel_values=pixels, return_loss=True)


def one(model, x):
    model.zero_grad()
    out = forward(model, x)
    out.loss.backward()
    return dict(image_embeds=out.image_embeds, text_embeds=out.text_embeds, logits=out.logits_per_image, loss=out.loss,
                **gradients(model))


def train(model, x, steps):
    decay = [p for p in model.parameters() if p.ndim > 1]
    rest = [p for p in model.parameters() if p.ndim <= 1]
    opt = torch.optim.AdamW(
        [dict(params=decay, weight_decay=ADAMW["weight_decay"]),
         dict(params=rest, weight_decay=0.0)], lr=ADAMW["lr"], betas=tuple(ADAMW["betas"]), eps=ADAMW["eps"])
    losses, norms = [], []
    for _ in range(steps):
        opt.zero_grad()
        loss = forward(model, x).loss
        loss.backward()
        norms.append(float(torch.nn.utils.clip_grad_norm_(model.parameters(), ADAMW["clip"])))
        opt.step()
        losses.append(loss.item())
    return dict(loss=losses + [forward(model, x).loss.item()], grad_norm=norms)


seed, z, folder = arguments(SIZES, "SEED [size=N ...] OUT_FOLDER")
g = generator(seed)
model = build(z, g)
weights = {n: p.detach().clone() for n, p in model.named_parameters()}
ids, packed, offsets = captions(z, g)
x = dict(pixel_values=torch.randn(z["batch"], 3, z["image"], z["image"], generator=g), input_ids=ids, tokens=packed,
         offsets=offsets)
single = one(model, x)
f32 = train(model, x, z["steps"])
with torch.no_grad():
    for n, p in model.named_parameters():
        p.copy_(weights[n])
model = model.double()
truth = one(model, x)
f64 = train(model, x, z["steps"])
grads = {k: v for k, v in truth.items() if k.startswith("grad.")}
error = dict(loss_relative=max(abs(a - b) / abs(b) for a, b in zip(f32["loss"], f64["loss"])),
             **gradient_error(single, grads))

save(folder, "weights.safetensors", weights)
save(folder, "inputs.safetensors", x)
save(folder, "expected.safetensors", {k: v if k == "loss" else v.float() for k, v in truth.items()})
save_json(
    folder, "config.json",
    dict(kind="clip", seed=seed, layout="hugging_face", eps=1e-5, logit_scale=LOGIT_SCALE, end_token=z["vocab"] - 1,
         **z, versions=versions()))
save_json(
    folder, "steps.json",
    dict(adamw=ADAMW, decay=[n for n, p in model.named_parameters() if p.ndim > 1],
         no_decay=[n for n, p in model.named_parameters() if p.ndim <= 1], f64=f64, f32=f32, torch_f32_error=error))
print(
    f"{folder}: loss {truth['loss'].item():.6f}, after {z['steps']} steps {f64['loss'][-1]:.6f}; "
      f"PyTorch's f32 is off by {error}"
)
