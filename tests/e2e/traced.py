"""Traced runs of `purekv ask` on small random checkpoints, for the tests that judge the method."""

import dataclasses
import pathlib
import sys

import numpy as np
from PIL import Image

import helpers

sys.path.insert(0, str(helpers.ROOT / "tools"))
import make_checkpoint  # noqa: E402
import reference_method  # noqa: E402

TINY = make_checkpoint.TINY
# Threads that spin while they wait make hundreds of short runs on a busy machine slow.
# "deep" has layers below, at and above a CLIE layer, and three query heads a KV head.
RECIPES = {
    "deep": dataclasses.replace(TINY, hidden=96, layers=4, heads=6, kv_heads=2, ffn=64, vision_depth=2, full=(1,)),
    "alone": dataclasses.replace(TINY, heads=4, kv_heads=4, layers=2, vision_depth=1, full=(0,), tied=False),
    "long": dataclasses.replace(TINY, layers=12, ffn=32, vision_depth=1, vision_hidden=32, vision_heads=2, full=(0,)),
    **{name: make_checkpoint.RECIPES[name] for name in ("group7", "bf16", "nested")},
}
# Frames, height, width; an image has no frames. Sides that are no multiples of 28 are resized.
MEDIA = {
    "text": (),
    "clip": ((10, 56, 84),),
    "odd": ((7, 61, 95),),
    "pair": ((2, 84, 56),),
    "dot": ((2, 28, 28),),
    "cells": ((12, 28, 28),),
    "row": ((8, 28, 140),),
    "two": ((6, 56, 56), (8, 84, 28)),
    "image": ((None, 84, 112),),
    "images": ((None, 56, 56), (None, 28, 84), (None, 56, 56)),
    "mixed": ((None, 56, 56), (6, 56, 84), (4, 56, 84)),
}


@dataclasses.dataclass
class Run:
    """What one run left behind."""

    result: dict
    folder: pathlib.Path
    model: pathlib.Path

    @property
    def trace(self):
        return helpers.load_trace(self.folder)

    def keeps(self):
        """Kept rows by layer and head."""
        trace = self.trace
        return [[row[row >= 0].tolist() for row in trace[name]] for name in sorted(trace) if name.startswith("keep_")]

    def judge(self, window=None):
        return reference_method.judge(self.folder, self.model, self.result, window)


class Bench:
    """Checkpoints, media and runs in one folder; a checkpoint or a medium is made once."""

    def __init__(self, folder):
        self.folder, self.made, self.count = folder, {}, 0

    def model(self, name):
        if name not in self.made:
            self.made[name] = make_checkpoint.write_checkpoint(self.folder / name, RECIPES[name], seed=len(name))
        return self.made[name]

    def media(self, shapes):
        """Paths of random media that change slowly from frame to frame."""
        return [self.medium(i, shape) for i, shape in enumerate(shapes)]

    def medium(self, index, shape):
        frames, height, width = shape
        path = self.folder / f"{index}-{frames or 'image'}-{height}-{width}.{'npy' if frames else 'png'}"
        if not path.exists():
            random = np.random.default_rng(index)
            drift = random.normal(0, 12, (frames or 1, height, width, 3)).cumsum(0)
            pixels = np.clip(random.integers(0, 256, (height, width, 3)) + drift, 0, 255).astype(np.uint8)
            if frames:
                np.save(path, pixels)
            else:
                Image.fromarray(pixels[0]).save(path)
        return path

    def ask(self, flags=(), media="clip", model="deep", question="What moves?", tokens=3, folder=None):
        """One traced run. `media`: a name of MEDIA, or paths; `model`: a name of RECIPES, or a folder."""
        self.count += 1
        folder = folder or self.folder / f"trace{self.count}"
        model = self.model(model) if isinstance(model, str) else model
        result = self.json(("--trace", folder, *flags), media, model, question, tokens)
        return Run(result, folder, model)

    def json(self, flags, media, model, question="What moves?", tokens=3):
        """What `--json` prints, greedy for `tokens` tokens; no trace unless `flags` ask for one."""
        paths = self.media(MEDIA[media]) if isinstance(media, str) else media
        args = ["ask", "--model", model, "--device", "cpu", "--max-tokens", str(tokens), "--ignore-eos", "--json"]
        return helpers.run([*args, *flags, *paths, question]).json()


def same_sets(one, other, near=1e-5):
    """Asserts that two runs kept the same rows, near-ties of the scores aside."""
    a, b = one.trace, other.trace
    for layer, (left, right) in enumerate(zip(one.keeps(), other.keeps(), strict=True)):
        for head, (rows, others) in enumerate(zip(left, right, strict=True)):
            differing = sorted(set(rows) ^ set(others))
            if not differing:
                continue
            score = a[f"score_{layer:02}"][head]
            assert np.ptp(score[differing]) <= near * score[np.isfinite(score)].max(), (layer, head, differing)
    assert sorted(a) == sorted(b)
