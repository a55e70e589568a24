"""Independent plain-PyTorch versions of the published models, for tests only: InternVL2.5's original forward pass
(InternViT, pixel shuffle, InternLM2 or Qwen2) from a state dict in the published names, and the taming VQGAN.

Legend: B batch, T tokens, D width, H heads, G key-value groups, d head width.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F


def rms(x, weight, eps):
    return weight * (x / torch.sqrt((x * x).mean(-1, keepdim=True) + eps))


# ---- InternViT ---------------------------------------------------------------------------------------------


def vision(state, config, pixels):
    """(N, 3, S, S) to (N, P, D) of the last layer, without the class token."""
    s = {k.removeprefix("vision_model."): v for k, v in state.items() if k.startswith("vision_model.")}
    c, eps = config["vision_config"], config["vision_config"]["layer_norm_eps"]
    patches = F.conv2d(
        pixels, s["embeddings.patch_embedding.weight"], s["embeddings.patch_embedding.bias"], stride=c["patch_size"]
    )
    x = patches.flatten(2).transpose(1, 2)
    x = torch.cat([s["embeddings.class_embedding"].expand(len(x), -1, -1), x], 1) + s["embeddings.position_embedding"]

    def norm(x, name):
        if c["norm_type"] == "rms_norm":
            return rms(x, s[name + ".weight"], eps)
        return F.layer_norm(x, x.shape[-1:], s[name + ".weight"], s[name + ".bias"], eps)

    for i in range(c["num_hidden_layers"]):
        p = f"encoder.layers.{i}."
        N, T, D = x.shape
        H = c["num_attention_heads"]
        qkv = F.linear(norm(x, p + "norm1"), s[p + "attn.qkv.weight"], s.get(p + "attn.qkv.bias"))
        q, k, v = qkv.reshape(N, T, 3, H, D // H).permute(2, 0, 3, 1, 4)
        if c["qk_normalization"]:  # over the full width, all heads together
            q, k = (
                rms(t.transpose(1, 2).flatten(2), s[p + f"attn.{n}_norm.weight"], 1e-6)
                .view(N, T, H, D // H)
                .transpose(1, 2)
                for t, n in ((q, "q"), (k, "k"))
            )
        a = ((q @ k.transpose(-1, -2)) / math.sqrt(D // H)).softmax(-1) @ v
        a = F.linear(a.transpose(1, 2).reshape(N, T, D), s[p + "attn.proj.weight"], s[p + "attn.proj.bias"])
        x = x + a * s[p + "ls1"]
        h = F.gelu(F.linear(norm(x, p + "norm2"), s[p + "mlp.fc1.weight"], s[p + "mlp.fc1.bias"]))
        x = x + F.linear(h, s[p + "mlp.fc2.weight"], s[p + "mlp.fc2.bias"]) * s[p + "ls2"]
    return x[:, 1:]


def image_features(state, config, pixels):
    """Vision, pixel shuffle v2 (the 2x2 neighbourhood, row by row, on the channels), and the projector."""
    x = vision(state, config, pixels)
    N, P, D = x.shape
    side = math.isqrt(P)
    x = x.view(N, side // 2, 2, side // 2, 2, D).permute(0, 1, 3, 2, 4, 5).reshape(N, P // 4, 4 * D)
    x = F.layer_norm(x, x.shape[-1:], state["mlp1.0.weight"], state["mlp1.0.bias"])
    x = F.gelu(F.linear(x, state["mlp1.1.weight"], state["mlp1.1.bias"]))
    return F.linear(x, state["mlp1.3.weight"], state["mlp1.3.bias"])


# ---- text towers -------------------------------------------------------------------------------------------


def rotate(x, positions, theta):
    d = x.shape[-1]
    angle = positions[:, None] * theta ** (-torch.arange(0, d, 2, dtype=x.dtype) / d)
    cos, sin = (torch.cat([f, f], -1) for f in (angle.cos(), angle.sin()))
    half = torch.cat([-x[..., d // 2 :], x[..., : d // 2]], -1)
    return x * cos + half * sin


def attend(q, k, v):
    """Causal attention; q (B, H, T, d), k and v (B, G, T, d)."""
    k, v = (t.repeat_interleave(q.shape[1] // t.shape[1], 1) for t in (k, v))
    scores = (q @ k.transpose(-1, -2)) / math.sqrt(q.shape[-1])
    scores = scores.masked_fill(torch.ones_like(scores[0, 0], dtype=torch.bool).triu(1), float("-inf"))
    return (scores.softmax(-1) @ v).transpose(1, 2).flatten(2)


def text(state, config, embeds):
    """(B, T, D) to logits (B, T, V)."""
    s = {k.removeprefix("language_model."): v for k, v in state.items() if k.startswith("language_model.")}
    c = config["llm_config"]
    H, G, D, eps = c["num_attention_heads"], c["num_key_value_heads"], c["hidden_size"], c["rms_norm_eps"]
    d, x = D // H, embeds
    B, T, _ = x.shape
    positions = torch.arange(T, dtype=x.dtype)
    old = c["architectures"][0].startswith("InternLM2")
    for i in range(c["num_hidden_layers"]):
        p = f"model.layers.{i}."
        if old:
            h = rms(x, s[p + "attention_norm.weight"], eps)
            fused = F.linear(h, s[p + "attention.wqkv.weight"]).view(B, T, G, H // G + 2, d)
            q = fused[..., : H // G, :].reshape(B, T, H, d).transpose(1, 2)
            k, v = (fused[..., n, :].transpose(1, 2) for n in (-2, -1))
            names = ("attention.wo", "ffn_norm", "feed_forward.w1", "feed_forward.w3", "feed_forward.w2")
        else:
            h = rms(x, s[p + "input_layernorm.weight"], eps)
            q, k, v = (
                F.linear(h, s[p + f"self_attn.{n}_proj.weight"], s[p + f"self_attn.{n}_proj.bias"])
                .view(B, T, -1, d)
                .transpose(1, 2)
                for n in "qkv"
            )
            names = ("self_attn.o_proj", "post_attention_layernorm", "mlp.gate_proj", "mlp.up_proj", "mlp.down_proj")
        out, norm, gate, up, down = (s[p + name + ".weight"] for name in names)
        q, k = (rotate(t, positions, c["rope_theta"]) for t in (q, k))
        x = x + F.linear(attend(q, k, v), out)
        h = rms(x, norm, eps)
        x = x + F.linear(F.silu(F.linear(h, gate)) * F.linear(h, up), down)
    x = rms(x, s["model.norm.weight"], eps)
    return F.linear(x, s["output.weight" if old else "lm_head.weight"])


def logits(state, config, ids, pixels, image_token):
    """The whole original forward pass for one row."""
    name = "model.tok_embeddings.weight" if "language_model.output.weight" in state else "model.embed_tokens.weight"
    embeds = state["language_model." + name][ids].clone()
    if pixels is not None:
        embeds[ids == image_token] = image_features(state, config, pixels).flatten(0, 1)
    return text(state, config, embeds)


# ---- checkpoints in the published layout -------------------------------------------------------------------


def config(kind: str, big_vision: bool = False, vocab: int = 64, layers: int = 3) -> dict:
    """A published-style config.json at toy sizes; 4 query heads a key-value group, as 8B's 32/8."""
    old = kind == "internlm2"
    return {
        "model_type": "internvl_chat",
        "downsample_ratio": 0.5,
        "force_image_size": 32,
        "max_dynamic_patch": 12,
        "ps_version": "v2",
        "select_layer": -1,
        "template": "internvl2_5",
        "use_thumbnail": True,
        "llm_config": {
            "architectures": ["InternLM2ForCausalLM" if old else "Qwen2ForCausalLM"],
            "hidden_size": 32,
            "intermediate_size": 48,
            "num_hidden_layers": layers,
            "num_attention_heads": 8,
            "num_key_value_heads": 2,
            "max_position_embeddings": 512,
            "rms_norm_eps": 1e-5 if old else 1e-6,
            "rope_theta": 1e6,
            "rope_scaling": {"factor": 2.0, "type": "dynamic"} if old else None,
            "vocab_size": vocab,
            "bias": False,
        },
        "vision_config": {
            "hidden_size": 16,
            "intermediate_size": 24,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "patch_size": 8,
            "image_size": 32,
            "qkv_bias": not big_vision,
            "qk_normalization": big_vision,
            "norm_type": "rms_norm" if big_vision else "layer_norm",
            "layer_norm_eps": 1e-6,
        },
    }


def checkpoint(config: dict, seed: int | None = 0, dtype=torch.float64) -> dict:
    """Random tensors under exactly the published names; with seed None, empty ones."""
    generator = None if seed is None else torch.Generator().manual_seed(seed)

    def new(*shape):
        if seed is None:
            return torch.empty(*shape, dtype=dtype)
        return torch.randn(*shape, generator=generator, dtype=torch.float64).mul(0.3).to(dtype)

    c, v = config["llm_config"], config["vision_config"]
    D, F_, H, G = c["hidden_size"], c["intermediate_size"], c["num_attention_heads"], c["num_key_value_heads"]
    d, dv, fv = D // H, v["hidden_size"], v["intermediate_size"]
    state = {
        "vision_model.embeddings.class_embedding": new(1, 1, dv),
        "vision_model.embeddings.position_embedding": new(1, (v["image_size"] // v["patch_size"]) ** 2 + 1, dv),
        "vision_model.embeddings.patch_embedding.weight": new(dv, 3, v["patch_size"], v["patch_size"]),
        "vision_model.embeddings.patch_embedding.bias": new(dv),
        "mlp1.0.weight": new(4 * dv),
        "mlp1.0.bias": new(4 * dv),
        "mlp1.1.weight": new(D, 4 * dv),
        "mlp1.1.bias": new(D),
        "mlp1.3.weight": new(D, D),
        "mlp1.3.bias": new(D),
        "language_model.model.norm.weight": new(D),
    }
    for i in range(v["num_hidden_layers"]):
        p = f"vision_model.encoder.layers.{i}."
        state |= {
            p + "attn.qkv.weight": new(3 * dv, dv),
            p + "attn.proj.weight": new(dv, dv),
            p + "attn.proj.bias": new(dv),
        }
        state |= {p + "mlp.fc1.weight": new(fv, dv), p + "mlp.fc1.bias": new(fv)}
        state |= {
            p + "mlp.fc2.weight": new(dv, fv),
            p + "mlp.fc2.bias": new(dv),
            p + "ls1": new(dv),
            p + "ls2": new(dv),
        }
        state |= {p + f"norm{n}.weight": new(dv) for n in (1, 2)}
        if v["norm_type"] == "layer_norm":
            state |= {p + f"norm{n}.bias": new(dv) for n in (1, 2)}
        if v["qkv_bias"]:
            state[p + "attn.qkv.bias"] = new(3 * dv)
        if v["qk_normalization"]:
            state |= {p + f"attn.{n}_norm.weight": new(dv) for n in "qk"}
    old = c["architectures"][0].startswith("InternLM2")
    lm = "language_model."
    state[lm + ("model.tok_embeddings.weight" if old else "model.embed_tokens.weight")] = new(c["vocab_size"], D)
    state[lm + ("output.weight" if old else "lm_head.weight")] = new(c["vocab_size"], D)
    for i in range(c["num_hidden_layers"]):
        p = f"{lm}model.layers.{i}."
        if old:
            state |= {p + "attention.wqkv.weight": new((H + 2 * G) * d, D), p + "attention.wo.weight": new(D, D)}
            state |= {p + f"feed_forward.w{n}.weight": new(F_, D) for n in (1, 3)}
            state |= {
                p + "feed_forward.w2.weight": new(D, F_),
                p + "attention_norm.weight": new(D),
                p + "ffn_norm.weight": new(D),
            }
        else:
            for n, rows in (("q", H), ("k", G), ("v", G)):
                state |= {
                    p + f"self_attn.{n}_proj.weight": new(rows * d, D),
                    p + f"self_attn.{n}_proj.bias": new(rows * d),
                }
            state |= {p + "self_attn.o_proj.weight": new(D, D), p + "input_layernorm.weight": new(D)}
            state |= {p + "post_attention_layernorm.weight": new(D), p + "mlp.down_proj.weight": new(D, F_)}
            state |= {p + f"mlp.{n}_proj.weight": new(F_, D) for n in ("gate", "up")}
    return state


# ---- the taming-transformers VQGAN -------------------------------------------------------------------------


class VQGAN:
    """Encoder and decoder from a state dict in the published names; attention in the mid block only."""

    def __init__(self, ch=32, mult=(1, 2), blocks=2, z=32, codes=64, seed=0, dtype=torch.float64):
        self.levels, self.blocks, self.state = len(mult), blocks, {}
        self.generator, self.dtype = torch.Generator().manual_seed(seed), dtype
        wide = [ch * m for m in mult]
        self.conv("encoder.conv_in", 3, ch, 3)
        at = ch
        for i, w in enumerate(wide):
            for j in range(blocks):
                self.res(f"encoder.down.{i}.block.{j}", at, w)
                at = w
            if i < self.levels - 1:
                self.conv(f"encoder.down.{i}.downsample.conv", at, at, 3)
        for side in ("encoder", "decoder"):
            self.res(f"{side}.mid.block_1", at, at)
            self.norm(f"{side}.mid.attn_1.norm", at)
            for n in ("q", "k", "v", "proj_out"):
                self.conv(f"{side}.mid.attn_1.{n}", at, at, 1)
            self.res(f"{side}.mid.block_2", at, at)
        self.norm("encoder.norm_out", at)
        self.conv("encoder.conv_out", at, z, 3)
        self.conv("quant_conv", z, z, 1)
        self.state["quantize.embedding.weight"] = self.new(codes, z)
        self.conv("post_quant_conv", z, z, 1)
        self.conv("decoder.conv_in", z, at, 3)
        for i in reversed(range(self.levels)):
            for j in range(blocks + 1):
                self.res(f"decoder.up.{i}.block.{j}", at, wide[i])
                at = wide[i]
            if i > 0:
                self.conv(f"decoder.up.{i}.upsample.conv", at, at, 3)
        self.norm("decoder.norm_out", at)
        self.conv("decoder.conv_out", at, 3, 3)

    def new(self, *shape, scale=0.2):
        return torch.randn(*shape, generator=self.generator, dtype=torch.float64).mul(scale).to(self.dtype)

    def conv(self, name, a, b, k):
        self.state |= {
            name + ".weight": self.new(b, a, k, k, scale=1 / math.sqrt(a * k * k)),
            name + ".bias": self.new(b),
        }

    def norm(self, name, a):
        self.state |= {name + ".weight": 1 + self.new(a), name + ".bias": self.new(a)}

    def res(self, name, a, b):
        self.norm(name + ".norm1", a)
        self.conv(name + ".conv1", a, b, 3)
        self.norm(name + ".norm2", b)
        self.conv(name + ".conv2", b, b, 3)
        if a != b:
            self.conv(name + ".nin_shortcut", a, b, 1)

    def _conv(self, x, name, **kw):
        weight = self.state[name + ".weight"]
        return F.conv2d(x, weight, self.state[name + ".bias"], padding=kw.pop("padding", weight.shape[-1] // 2), **kw)

    def _norm(self, x, name):
        return F.group_norm(x, 32, self.state[name + ".weight"], self.state[name + ".bias"], 1e-6)

    def _act(self, x, name):
        x = self._norm(x, name)
        return x * torch.sigmoid(x)

    def _res(self, x, name):
        h = self._conv(self._act(x, name + ".norm1"), name + ".conv1")
        h = self._conv(self._act(h, name + ".norm2"), name + ".conv2")
        return h + (self._conv(x, name + ".nin_shortcut") if name + ".nin_shortcut.weight" in self.state else x)

    def _mid(self, x, side):
        x = self._res(x, f"{side}.mid.block_1")
        h = self._norm(x, f"{side}.mid.attn_1.norm")
        q, k, v = (self._conv(h, f"{side}.mid.attn_1.{n}").flatten(2) for n in "qkv")
        weights = (q.transpose(1, 2) @ k / math.sqrt(x.shape[1])).softmax(-1)
        x = x + self._conv((v @ weights.transpose(1, 2)).view_as(x), f"{side}.mid.attn_1.proj_out")
        return self._res(x, f"{side}.mid.block_2")

    def encode(self, x):
        x = self._conv(x, "encoder.conv_in")
        for i in range(self.levels):
            for j in range(self.blocks):
                x = self._res(x, f"encoder.down.{i}.block.{j}")
            if i < self.levels - 1:
                x = self._conv(F.pad(x, (0, 1, 0, 1)), f"encoder.down.{i}.downsample.conv", stride=2, padding=0)
        x = self._conv(self._act(self._mid(x, "encoder"), "encoder.norm_out"), "encoder.conv_out")
        x = self._conv(x, "quant_conv").permute(0, 2, 3, 1)
        table = self.state["quantize.embedding.weight"]
        return ((x[..., None, :] - table) ** 2).sum(-1).argmin(-1)

    def decode(self, codes):
        x = self.state["quantize.embedding.weight"][codes].permute(0, 3, 1, 2)
        x = self._mid(self._conv(self._conv(x, "post_quant_conv"), "decoder.conv_in"), "decoder")
        for i in reversed(range(self.levels)):
            for j in range(self.blocks + 1):
                x = self._res(x, f"decoder.up.{i}.block.{j}")
            if i > 0:
                x = self._conv(x.repeat_interleave(2, 2).repeat_interleave(2, 3), f"decoder.up.{i}.upsample.conv")
        return self._conv(self._act(x, "decoder.norm_out"), "decoder.conv_out")
