# SPDX-License-Identifier: Apache-2.0
"""Losses: answer tokens, and the probes that teach vision and memory early (dropped at export)."""

import torch
import torch.nn.functional as F
from torch import nn

import model as M
import tasks
import world

NO_SHAPE, NO_COLOR = len(world.SHAPES), len(world.COLORS) + 1
VISION_HEADS = (NO_SHAPE + 1, NO_COLOR + 1, M.TOKENS)
MEMORY_HEADS = (NO_SHAPE + 1, NO_COLOR + 1, NO_SHAPE + 1, NO_COLOR + 1, 5)
MEMORY_LAYER = 5


class Probes(nn.Module):
    """Linear read-outs: what a merged token shows; what a video row of a middle layer remembers."""

    def __init__(self, width):
        super().__init__()
        self.vision, self.memory = M.Linear(width, sum(VISION_HEADS)), M.Linear(width, sum(MEMORY_HEADS))


def cell_labels(scene, seconds):
    """Shape and colour [B,16,36] in each merged cell at the second frame of each step."""
    x, y, visible, color = world.object_state(scene, seconds[1::2])
    cell = torch.arange(M.TOKENS, device=seconds.device)
    cx, cy = (cell % M.CELLS) * 28 + 14, (cell // M.CELLS) * 28 + 14
    far = torch.maximum((x[..., None] - cx).abs(), (y[..., None] - cy).abs())       # [B,16,8,36]
    far = torch.where(visible[..., None], far, 1e3)
    near, shape = far.min(2)
    color = color[..., None].expand_as(far).gather(2, shape[:, :, None])[:, :, 0]
    return torch.where(near < 20, shape, NO_SHAPE), torch.where(near < 20, color, NO_COLOR)


def probe_labels(scene, seconds):
    """Labels of all heads: vision [B,576,3], memory [B,576,5] (step before, first step, flashes so far)."""
    shape, color = cell_labels(scene, seconds)
    before = [torch.cat([torch.full_like(z[:, :1], none), z[:, :-1]], 1)
              for z, none in ((shape, NO_SHAPE), (color, NO_COLOR))]
    first = [z[:, :1].expand_as(z) for z in (shape, color)]
    flashes = (scene.flash_start[:, None] <= seconds[1::2][None, :, None]).sum(-1)
    cell = torch.arange(M.TOKENS, device=seconds.device).expand_as(shape)
    vision = torch.stack([shape, color, cell], -1)
    memory = torch.stack([*before, *first, flashes[..., None].expand_as(shape)], -1)
    return vision.flatten(1, 2), memory.flatten(1, 2)


def head_loss(logits, labels, sizes):
    """Sum of the cross-entropies of several heads that share one projection."""
    parts = logits.float().flatten(0, 1).split(sizes, -1)
    labels = labels.flatten(0, 1)
    return sum(F.cross_entropy(part, labels[:, i]) for i, part in enumerate(parts))


def answer_rows(hidden, slots, mark):
    """Hidden states that predict answer tokens [B,8,ANSWER,H], their targets and which of them count."""
    start = mark.int().argmax(-1, keepdim=True)
    at = (start + torch.arange(tasks.ANSWER, device=slots.device)).clamp(max=tasks.SLOT - 1)
    rows = hidden.gather(2, (at - 1)[..., None].expand(-1, -1, -1, hidden.shape[-1]))
    inside = start + torch.arange(tasks.ANSWER, device=slots.device) < tasks.SLOT
    return rows, slots.gather(2, at), mark.gather(2, at) & inside


def answer_loss(logits, target, valid):
    """Mean loss per task [8], and which answers [B,8] are exactly right (as greedy decoding would give)."""
    loss = F.cross_entropy(logits.float().flatten(0, 2), target.flatten(), reduction="none").view(target.shape)
    per_task = (loss * valid).sum((0, 2)) / valid.sum((0, 2))
    right = ((logits.argmax(-1) == target) | ~valid).all(-1)
    return per_task, right
