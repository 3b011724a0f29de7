# SPDX-License-Identifier: Apache-2.0
"""Muon for the matrices of the layers, Adam for everything else, and the moving average that is exported."""

import torch

MATRICES = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj", "qkv", "attn.proj",
            "merger.mlp")


def orthogonalise(g, steps=5):
    """Newton-Schulz iteration on a stack of matrices [N,R,C]: pushes all singular values towards 1."""
    a, b, c = 3.4445, -4.7750, 2.0315
    x = g.bfloat16()
    tall = x.shape[1] > x.shape[2]
    x = x.mT if tall else x
    x = x / (x.norm(dim=(1, 2), keepdim=True) + 1e-7)
    for _ in range(steps):
        y = x @ x.mT
        x = a * x + (b * y + c * y @ y) @ x
    return x.mT if tall else x


class Muon:
    """Momentum, then an orthogonalised step; matrices of one shape are handled in one batch."""

    def __init__(self, named, lr, momentum=0.95, decay=0.02):
        self.lr, self.momentum, self.decay, self.groups = lr, momentum, decay, {}
        for name, p in named:
            # The fused qkv matrix is three matrices. Queries and keys move slower: nothing normalises them.
            parts = 3 if "qkv" in name else 1
            scale = 0.5 if "q_proj" in name or "k_proj" in name or "qkv" in name else 1.0
            key = (parts, scale, *p.shape)
            self.groups.setdefault(key, []).append(p)
        self.buffers = {}
        for key, params in self.groups.items():
            rows = params[0].shape[0] // key[0]
            self.buffers[key] = torch.zeros(len(params) * key[0], rows, params[0].shape[1], device=params[0].device)

    @torch.no_grad()
    def step(self, factor):
        for key, params in self.groups.items():
            buffer = self.buffers[key]
            grad = torch.stack([p.grad for p in params]).view_as(buffer)
            buffer.lerp_(grad, 1 - self.momentum)
            update = orthogonalise(grad.lerp_(buffer, self.momentum)).float()
            rate = self.lr * factor * key[1] * max(1.0, buffer.shape[1] / buffer.shape[2]) ** 0.5
            update = update.reshape(len(params), *params[0].shape)
            torch._foreach_mul_(params, 1 - self.lr * factor * self.decay)
            torch._foreach_add_(params, list(update.unbind(0)), alpha=-rate)

    def state(self):
        return list(self.buffers.values())

    def load(self, buffers):
        for mine, saved in zip(self.buffers.values(), buffers):
            mine.copy_(saved)


class Optimiser:
    """Both parts with one schedule factor, and the exponential moving average of the model's weights."""

    def __init__(self, model, probes, muon_lr, adam_lr):
        named = list(model.named_parameters())
        is_matrix = [p.dim() == 2 and any(m in n for m in MATRICES) for n, p in named]
        self.muon = Muon([x for x, yes in zip(named, is_matrix) if yes], muon_lr)
        rest = [p for (_, p), yes in zip(named, is_matrix) if not yes] + list(probes.parameters())
        self.adam = torch.optim.AdamW(rest, lr=adam_lr, betas=(0.9, 0.95), weight_decay=0.0,
                                      fused=rest[0].is_cuda)
        self.adam_lr = adam_lr
        self.weights = [p for _, p in named]
        self.average = [p.detach().clone() for p in self.weights]
        self.names = [n for n, _ in named]
        self.all = self.weights + list(probes.parameters())

    @torch.no_grad()
    def step(self, factor, count):
        self.muon.step(factor)
        for group in self.adam.param_groups:
            group["lr"] = self.adam_lr * factor
        torch.nn.utils.clip_grad_norm_(self.adam.param_groups[0]["params"], 1.0)
        self.adam.step()
        for p in self.all:
            p.grad = None
        torch._foreach_lerp_(self.average, self.weights, 1 - min(0.998, (1 + count) / (20 + count)))

    def weights_data(self):
        return [p.data for p in self.weights]

    def averaged(self):
        return dict(zip(self.names, self.average))

    def state(self):
        return {"muon": self.muon.state(), "adam": self.adam.state_dict(), "average": self.average}

    def load(self, state):
        self.muon.load(state["muon"])
        self.adam.load_state_dict(state["adam"])
        for mine, saved in zip(self.average, state["average"]):
            mine.copy_(saved)
