# SPDX-License-Identifier: Apache-2.0
"""Qwen2.5-VL's architecture in plain torch, for fixed shapes: what train.py trains and export.py writes.

Parameter names are those of the published checkpoints. `visual.` runs over frame pairs, `model.` over one
sequence: prompt prefix, video rows, then eight questions that do not see each other. Weights stay fp32 and
are cast to the activations' type where they are used.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn

import tasks
import world

PATCH, MERGE, TEMPORAL = 14, 2, 2
GRID = world.SIZE // PATCH                  # 12 patches a side
CELLS = GRID // MERGE                       # 6 merged tokens a side
TOKENS = CELLS * CELLS                      # 36 tokens a step
PREFIX_TEXT = 15                            # tokens before the video
PREFIX = PREFIX_TEXT + world.STEPS * TOKENS + 1
LENGTH = PREFIX + len(tasks.NAMES) * tasks.SLOT
MEAN = (0.48145466, 0.4578275, 0.40821073)
STD = (0.26862954, 0.26130258, 0.27577711)


@dataclass(frozen=True)
class Config:
    vocab: int = 1408
    hidden: int = 384
    layers: int = 12
    heads: int = 6
    kv_heads: int = 2
    head_dim: int = 64
    mlp: int = 896
    sections: tuple = (8, 12, 12)           # frequencies of time, height, width
    theta: float = 10000.0
    vision_hidden: int = 256
    vision_layers: int = 4
    vision_heads: int = 4
    vision_mlp: int = 768
    full_attention: tuple = (1, 3)
    window: int = 56                        # pixels
    eps: float = 1e-6


class Linear(nn.Linear):
    def forward(self, x):
        bias = None if self.bias is None else self.bias.to(x.dtype)
        return F.linear(x, self.weight.to(x.dtype), bias)


class RmsNorm(nn.Module):
    def __init__(self, width, eps=1e-6):
        super().__init__()
        self.weight, self.eps = nn.Parameter(torch.ones(width)), eps

    def forward(self, x):
        y = x.float()
        y = y * torch.rsqrt(y.square().mean(-1, keepdim=True) + self.eps)
        return (y * self.weight).to(x.dtype)


class Mlp(nn.Module):
    def __init__(self, width, inner, bias):
        super().__init__()
        self.gate_proj, self.up_proj = Linear(width, inner, bias), Linear(width, inner, bias)
        self.down_proj = Linear(inner, width, bias)

    def forward(self, x):
        return self.down_proj(F.silu(self.gate_proj(x)) * self.up_proj(x))


def rotate(x, cos, sin):
    """Rotary embedding, rotate-half form, in fp32. x [...,heads,S,D]; cos, sin [S,D]."""
    y = x.float()
    a, b = y.chunk(2, -1)
    return (y * cos + torch.cat([-b, a], -1) * sin).to(x.dtype)


class VisionAttention(nn.Module):
    def __init__(self, width, heads):
        super().__init__()
        self.qkv, self.proj, self.heads = Linear(width, 3 * width), Linear(width, width), heads


class VisionBlock(nn.Module):
    def __init__(self, c):
        super().__init__()
        self.norm1, self.norm2 = RmsNorm(c.vision_hidden, c.eps), RmsNorm(c.vision_hidden, c.eps)
        self.attn = VisionAttention(c.vision_hidden, c.vision_heads)
        self.mlp = Mlp(c.vision_hidden, c.vision_mlp, True)

    def forward(self, x, cos, sin, segment: int):
        """x [N, 144, C] of frame pairs; attention stays within segments of so many rows."""
        n, rows, width = x.shape
        heads = self.attn.heads
        qkv = self.attn.qkv(self.norm1(x)).view(n, rows, 3, heads, width // heads)
        q, k, v = qkv.permute(2, 0, 3, 1, 4).unbind(0)                     # [N,heads,144,D]
        q, k = rotate(q, cos, sin), rotate(k, cos, sin)

        def cut(z):
            return z.reshape(n, heads, rows // segment, segment, -1).transpose(1, 2).flatten(0, 1)

        out = F.scaled_dot_product_attention(cut(q), cut(k), cut(v))
        out = out.view(n, rows // segment, heads, segment, -1).permute(0, 1, 3, 2, 4).reshape(n, rows, width)
        x = x + self.attn.proj(out)
        return x + self.mlp(self.norm2(x))


class PatchEmbed(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.proj = nn.Conv3d(3, width, (TEMPORAL, PATCH, PATCH), (TEMPORAL, PATCH, PATCH), bias=False)

    def forward(self, patches):
        return F.linear(patches, self.proj.weight.flatten(1).to(patches.dtype))


class Merger(nn.Module):
    def __init__(self, width, out):
        super().__init__()
        inner = width * MERGE * MERGE
        self.ln_q = RmsNorm(width)
        self.mlp = nn.Sequential(Linear(inner, inner), nn.GELU(), Linear(inner, out))

    def forward(self, x):
        return self.mlp(self.ln_q(x).reshape(x.shape[0], -1, self.mlp[0].in_features))


def window_order(c):
    """Merged cells of a frame pair in window order: windows in raster order, cells in raster order inside."""
    k = c.window // (PATCH * MERGE)
    assert CELLS % k == 0, "ragged windows are not needed here"
    cells = torch.arange(TOKENS).view(CELLS // k, k, CELLS // k, k)
    return cells.transpose(1, 2).reshape(-1), k * k * MERGE * MERGE


def patchify(frames, dtype):
    """uint8 [B,T,3,H,W] -> [B*T/2, 36, 4, 1176], normalised, in the processor's order of rows and columns."""
    b, t = frames.shape[:2]
    mean = torch.tensor(MEAN, device=frames.device).view(3, 1, 1)
    std = torch.tensor(STD, device=frames.device).view(3, 1, 1)
    x = ((frames.float() / 255 - mean) / std).to(dtype)
    x = x.view(b, t // 2, 2, 3, CELLS, MERGE, PATCH, CELLS, MERGE, PATCH)
    return x.permute(0, 1, 4, 7, 5, 8, 3, 2, 6, 9).reshape(b * t // 2, TOKENS, MERGE * MERGE, -1)


class VisionTower(nn.Module):
    def __init__(self, c):
        super().__init__()
        self.config = c
        self.patch_embed = PatchEmbed(c.vision_hidden)
        self.blocks = nn.ModuleList(VisionBlock(c) for _ in range(c.vision_layers))
        self.merger = Merger(c.vision_hidden, c.hidden)
        order, self.segment = window_order(c)
        self.register_buffer("order", order, persistent=False)
        cos, sin = self._rotary(order)
        self.register_buffer("cos", cos, persistent=False)
        self.register_buffer("sin", sin, persistent=False)

    def _rotary(self, order):
        quarter = self.config.vision_hidden // self.config.vision_heads // 4
        inv = 10000.0 ** (-torch.arange(quarter) / quarter)
        inside = torch.arange(MERGE * MERGE)
        row = (order[:, None] // CELLS) * MERGE + inside // MERGE
        col = (order[:, None] % CELLS) * MERGE + inside % MERGE
        angle = torch.cat([row.reshape(-1, 1) * inv, col.reshape(-1, 1) * inv], 1)
        angle = torch.cat([angle, angle], 1)
        return angle.cos(), angle.sin()

    def forward(self, patches):
        """[N,36,4,1176] -> [N,36,hidden] in raster order."""
        x = self.patch_embed(patches[:, self.order]).flatten(1, 2)
        for i, block in enumerate(self.blocks):
            x = block(x, self.cos, self.sin, x.shape[1] if i in self.config.full_attention else self.segment)
        return self.merger(x)[:, self.order.argsort()]


class SelfAttention(nn.Module):
    def __init__(self, c):
        super().__init__()
        self.q_proj = Linear(c.hidden, c.heads * c.head_dim)
        self.k_proj = Linear(c.hidden, c.kv_heads * c.head_dim)
        self.v_proj = Linear(c.hidden, c.kv_heads * c.head_dim)
        self.o_proj = Linear(c.heads * c.head_dim, c.hidden, bias=False)


class DecoderLayer(nn.Module):
    def __init__(self, c):
        super().__init__()
        self.config = c
        self.input_layernorm = RmsNorm(c.hidden, c.eps)
        self.post_attention_layernorm = RmsNorm(c.hidden, c.eps)
        self.self_attn = SelfAttention(c)
        self.mlp = Mlp(c.hidden, c.mlp, False)

    def forward(self, x, cos, sin, attend):
        c, a = self.config, self.self_attn
        b, s, _ = x.shape
        y = self.input_layernorm(x)
        q = rotate(a.q_proj(y).view(b, s, c.heads, -1).transpose(1, 2), cos, sin)
        k = rotate(a.k_proj(y).view(b, s, c.kv_heads, -1).transpose(1, 2), cos, sin)
        v = a.v_proj(y).view(b, s, c.kv_heads, -1).transpose(1, 2)
        group = c.heads // c.kv_heads
        out = attend(q, k.repeat_interleave(group, 1), v.repeat_interleave(group, 1))
        x = x + a.o_proj(out.transpose(1, 2).reshape(b, s, -1))
        return x + self.mlp(self.post_attention_layernorm(x))


def slot_visible(q, kv):
    """Attention rule over one packed sequence: causal, and a question sees the prefix and itself only."""
    return (q >= kv) & ((kv < PREFIX) | ((q - PREFIX) // tasks.SLOT == (kv - PREFIX) // tasks.SLOT))


def positions(seconds_per_step=1.0, tokens_per_second=2):
    """M-RoPE positions [3, LENGTH] by Qwen's training rule: all questions start at the same position."""
    text = torch.arange(PREFIX_TEXT).expand(3, -1)
    step = torch.arange(world.STEPS * TOKENS)
    time = (step // TOKENS * seconds_per_step * tokens_per_second).float().floor().long()
    video = torch.stack([time, step % TOKENS // CELLS, step % CELLS]) + PREFIX_TEXT
    after = int(video.max()) + 1
    slot = torch.arange(len(tasks.NAMES) * tasks.SLOT) % tasks.SLOT + after + 1
    return torch.cat([text, video, torch.tensor([[after]]).expand(3, 1), slot.expand(3, -1)], 1)


def mrope(c, place):
    """cos, sin [S, head_dim] of positions [3,S]: each frequency belongs to one of the three axes."""
    half = c.head_dim // 2
    inv = c.theta ** (-torch.arange(half).float() / half)
    axis = torch.repeat_interleave(torch.arange(3), torch.tensor(c.sections))
    angle = place[axis].T.float() * inv
    return torch.cat([angle, angle], 1).cos(), torch.cat([angle, angle], 1).sin()


class Decoder(nn.Module):
    def __init__(self, c):
        super().__init__()
        self.embed_tokens = nn.Embedding(c.vocab, c.hidden)
        self.layers = nn.ModuleList(DecoderLayer(c) for _ in range(c.layers))
        self.norm = RmsNorm(c.hidden, c.eps)


class DemoModel(nn.Module):
    def __init__(self, c, prefix_ids, vision_end):
        super().__init__()
        self.config = c
        self.visual, self.model = VisionTower(c), Decoder(c)
        self.register_buffer("prefix_ids", torch.tensor(prefix_ids), persistent=False)
        self.register_buffer("vision_end", torch.tensor([vision_end]), persistent=False)
        cos, sin = mrope(c, positions())
        self.register_buffer("cos", cos, persistent=False)
        self.register_buffer("sin", sin, persistent=False)
        self._init()

    def _init(self):
        for name, p in self.named_parameters():
            if p.dim() < 2:
                if name.endswith("bias"):
                    nn.init.zeros_(p)
                continue
            gain = 1.0 if "embed" not in name or "patch" in name else 0.02 * self.config.vocab ** 0.5
            if "q_proj" in name or "k_proj" in name:
                gain = 1.5          # sharper attention from the start shortens the plateau of temporal tasks
            if "o_proj" in name or "down_proj" in name or "attn.proj" in name:
                gain = 0.2          # near-identity layers at first
            fan_in = self.config.vocab if "embed_tokens" in name else p[0].numel()
            nn.init.normal_(p, std=gain * fan_in ** -0.5)

    def encode(self, frames, dtype):
        """Video rows [B, 576, hidden] of uint8 frames [B,32,3,168,168]."""
        rows = self.visual(patchify(frames, dtype))
        return rows.view(frames.shape[0], -1, rows.shape[-1])

    def hidden(self, video, slots, attend, probe_after=None):
        """Last hidden states of the slots [B,8,SLOT,hidden], and the video rows after a middle layer."""
        b, table = video.shape[0], self.model.embed_tokens
        text = table(self.prefix_ids).to(video.dtype).expand(b, -1, -1)
        mark = table(self.vision_end).to(video.dtype).expand(b, -1, -1)
        x = torch.cat([text, video, mark, table(slots.flatten(1)).to(video.dtype)], 1)
        probe = None
        for i, layer in enumerate(self.model.layers):
            x = layer(x, self.cos, self.sin, attend)
            if i == probe_after:
                probe = x[:, PREFIX_TEXT:PREFIX - 1]
        return x[:, PREFIX:].view(b, slots.shape[1], slots.shape[2], -1), probe

    def logits(self, hidden):
        return F.linear(self.model.norm(hidden), self.model.embed_tokens.weight.to(hidden.dtype))


def dense_attend(device):
    """Attention with the packed mask through SDPA: works everywhere."""
    i = torch.arange(LENGTH, device=device)
    mask = slot_visible(i[:, None], i[None, :])
    return lambda q, k, v: F.scaled_dot_product_attention(q, k, v, attn_mask=mask)


def flex_attend(device):
    """The same through FlexAttention, which skips masked blocks; needs a GPU and torch.compile."""
    from torch.nn.attention.flex_attention import create_block_mask, flex_attention
    mask = create_block_mask(lambda b, h, q, kv: slot_visible(q, kv), None, None, LENGTH, LENGTH, device=device)
    return lambda q, k, v: flex_attention(q, k, v, block_mask=mask)
