"""The text half of a Qwen2.5-VL checkpoint in NumPy float64, a layer at a time: what reference_method.py judges with.

Rows go in as a trace holds them. Every attention matrix is formed, a block of rows at a time, under a mask
that the caller writes down.
"""

import json
import math
from pathlib import Path

import numpy as np

ROWS_AT_ONCE = 512  # of an attention matrix


def to_bf16(x):
    """Values as a bfloat16 holds them: float32 bits rounded to nearest, ties to even, on the upper half."""
    bits = np.ascontiguousarray(x, np.float32).view(np.uint32)
    rounded = (bits + 0x7FFF + ((bits >> 16) & 1)) & np.uint32(0xFFFF0000)
    return rounded.view(np.float32).astype(np.float64)


def canonical(name):
    """A tensor's name without the prefixes that layouts differ in."""
    for prefix in ("model.", "language_model.", "model."):
        name = name.removeprefix(prefix)
    return name


def read_tensors(folder):
    """Canonical name -> float64 array, of the text model in every safetensors file of a folder."""
    types = {"F32": np.float32, "F16": np.float16, "BF16": np.uint16}
    tensors = {}
    for path in sorted(Path(folder).glob("*.safetensors")):
        data = path.read_bytes()
        size = int.from_bytes(data[:8], "little")
        for name, entry in json.loads(data[8:8 + size]).items():
            short = canonical(name)
            if name == "__metadata__" or short.startswith("visual."):
                continue
            begin, end = entry["data_offsets"]
            raw = np.frombuffer(data[8 + size + begin:8 + size + end], types[entry["dtype"]])
            if entry["dtype"] == "BF16":
                raw = (raw.astype(np.uint32) << 16).view(np.float32)
            tensors[short] = raw.reshape(entry["shape"]).astype(np.float64)
    return tensors


def softmax(logits, seen):
    """Rows of probabilities over the keys that a row sees, and each row's log-sum-exp."""
    logits = np.where(seen, logits, -np.inf)
    top = logits.max(-1, keepdims=True)
    p = np.exp(logits - top)
    total = p.sum(-1, keepdims=True)
    return p / total, (top + np.log(total))[..., 0]


class Model:
    """Sizes and arithmetic of the decoder."""

    def __init__(self, folder):
        config = json.loads((Path(folder) / "config.json").read_text(encoding="utf-8"))
        text = config.get("text_config", config)
        rope = text.get("rope_scaling") or text.get("rope_parameters")
        self.heads, self.kv_heads = text["num_attention_heads"], text["num_key_value_heads"]
        self.group = self.heads // self.kv_heads
        self.layers = text["num_hidden_layers"]
        self.head_dim = text.get("head_dim") or text["hidden_size"] // self.heads
        self.scale = 1 / math.sqrt(self.head_dim)
        self.eps, self.sections = text["rms_norm_eps"], rope["mrope_section"]
        self.theta = text.get("rope_theta") or rope["rope_theta"]
        self.tensors = read_tensors(folder)

    def norm(self, x, name):
        return x / np.sqrt((x ** 2).mean(-1, keepdims=True) + self.eps) * self.tensors[name + ".weight"]

    def linear(self, x, name):
        """x W^T + b."""
        return x @ self.tensors[name + ".weight"].T + self.tensors.get(name + ".bias", 0.0)

    def rotate(self, x, positions):
        """M-RoPE on [heads, l, d]: frequency j takes its angle from the axis of its section.

        The model defines its angles in float32; at position 8000 the difference is seen."""
        half = self.head_dim // 2
        axis = np.repeat([0, 1, 2], self.sections)
        exponent = (2 * np.arange(half)).astype(np.float32) / np.float32(self.head_dim)
        inverse = np.float32(1) / np.power(self.theta, exponent.astype(np.float64)).astype(np.float32)
        angle = (positions[axis].T.astype(np.float32) * inverse).astype(np.float64)
        a, b = x[..., :half], x[..., half:]
        return np.concatenate([a * np.cos(angle) - b * np.sin(angle), b * np.cos(angle) + a * np.sin(angle)], -1)

    def qkv(self, layer, hidden, positions, bf16=False):
        """q [H, l, d] and k [Hk, l, d] after RoPE, v [Hk, l, d]; keys and values in the cache's type."""
        x = self.norm(hidden, f"layers.{layer}.input_layernorm")
        q, k, v = (self.linear(x, f"layers.{layer}.self_attn.{name}_proj").reshape(len(x), -1, self.head_dim)
                   .transpose(1, 0, 2) for name in "qkv")
        q, k = self.rotate(q, positions), self.rotate(k, positions)
        return (q, to_bf16(k), to_bf16(v)) if bf16 else (q, k, v)

    def logits(self, q, k, head):
        """Scaled products of a query head's rows with its KV head's keys."""
        return q[head] @ k[head // self.group].T * self.scale

    def attend(self, q, k, v, mask):
        """Rows [l, H * d] and log-sum-exps [H, l]; mask(rows) is bool [rows, keys]."""
        out, lse = np.zeros((self.heads, q.shape[1], self.head_dim)), np.zeros((self.heads, q.shape[1]))
        for begin in range(0, q.shape[1], ROWS_AT_ONCE):
            rows = slice(begin, min(begin + ROWS_AT_ONCE, q.shape[1]))
            seen = mask(np.arange(rows.start, rows.stop))
            for h in range(self.heads):
                p, lse[h, rows] = softmax(self.logits(q[:, rows], k, h), seen)
                out[h, rows] = p @ v[h // self.group]
        return out.transpose(1, 0, 2).reshape(q.shape[1], -1), lse

    def finish(self, layer, hidden, attended):
        """The rows after the layer: output projection, then the MLP."""
        hidden = hidden + self.linear(attended, f"layers.{layer}.self_attn.o_proj")
        x = self.norm(hidden, f"layers.{layer}.post_attention_layernorm")
        gate = self.linear(x, f"layers.{layer}.mlp.gate_proj")
        inner = gate / (1 + np.exp(-gate)) * self.linear(x, f"layers.{layer}.mlp.up_proj")
        return hidden + self.linear(inner, f"layers.{layer}.mlp.down_proj")

    def embed(self, token):
        return self.tensors["embed_tokens.weight"][token][None]

    def head(self, hidden):
        """Logits of rows after the last layer."""
        return self.norm(hidden, "norm") @ self.tensors.get("lm_head.weight", self.tensors["embed_tokens.weight"]).T

    def out_norm(self, layer, v):
        """mean over the group's heads of ||W_o^h v||: v [Hk, l, d] -> [Hk, l]."""
        w = self.tensors[f"layers.{layer}.self_attn.o_proj.weight"]
        w = w.reshape(w.shape[0], self.heads, self.head_dim)
        norms = [np.linalg.norm(v[h // self.group] @ w[:, h].T, axis=-1) for h in range(self.heads)]
        return np.stack(norms).reshape(self.kv_heads, self.group, -1).mean(1)
