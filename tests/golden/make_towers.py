"""Tiny towers with random weights, their outputs, losses and gradients: `make_towers.py SEED [size=N ...] OUT`.

OUT/bert      transformers' BertModel: bidirectional, learned positions, token types (all of the first kind, unless
              segments=2, which triad's text tower does not take), GELU, norms after the sums
OUT/vit       transformers' ViTForImageClassification: class token, norms before, GELU
OUT/whisper   transformers' WhisperEncoder: convolutions k3 s1 and k3 s2 with GELU, sinusoidal positions, norms before

Each folder: config.json, weights.safetensors (f32), inputs.safetensors, expected.safetensors (computed in f64, written
as f32; loss f64; grad.<name>). Names and layouts are Hugging Face's: linear (out, in), convolution
(out, in, k...).

Sequences are packed: (T, ...) with offsets (B + 1). The loss of bert and whisper is mean(w * y) with the stored w; that
of vit is the mean cross-entropy with the stored labels.
"""
from common import *
import torch.nn.functional as F
from transformers import BertConfig, BertModel, ViTConfig, ViTForImageClassification, WhisperConfig
from transformers.models.whisper.modeling_whisper import WhisperEncoder

SIZES = dict(width=16, layers=2, heads=2, mlp=40, batch=3, vocab=31, segments=1, context=12, image=20, patch=4, bins=10,
             frames=38, classes=5)
SEED, Z, OUT = arguments(SIZES, "SEED [size=N ...] OUT_FOLDER")
COMMON = dict(hidden_size=Z["width"], num_hidden_layers=Z["layers"], num_attention_heads=Z["heads"],
              intermediate_size=Z["mlp"], hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0, hidden_act="gelu",
              layer_norm_eps=1e-6)


def bert():
    g = generator(SEED)
    model = BertModel._from_config(
        BertConfig(vocab_size=Z["vocab"], max_position_embeddings=Z["context"], type_vocab_size=2, pad_token_id=0,
                   **COMMON), add_pooling_layer=False, **ATTENTION).eval()
    randomise(model, g)
    n = lengths(g, Z["batch"], Z["context"])
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
        OUT, SEED, "bert", model, forward, dict(tokens=token, token_types=kind, offsets=offsets(n), w=w),
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
        OUT, SEED, "vit", model, forward,
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
    n = lengths(g, Z["batch"], Z["frames"])
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
        OUT, SEED, "whisper", model, forward,
        dict(mel=torch.randn(sum(n), Z["bins"], generator=g), offsets=offsets(n), out_offsets=offsets(after), w=w),
        dict(layout="hugging_face", eps=1e-5, activation="gelu", positions=longest,
             **pick("width layers heads mlp bins batch")))


def pick(names):
    return {n: Z[n] for n in names.split()}


bert()
vit()
whisper()
