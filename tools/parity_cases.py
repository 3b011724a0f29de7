"""The parity cases: models, media and prompts, made from seeds by NumPy alone.

make_goldens.py runs them through transformers, tests/e2e/test_parity.py through purekv.
"""

import dataclasses
import zlib

import numpy as np

SYSTEM = "You are a helpful assistant."
MEAN = np.array([0.48145466, 0.4578275, 0.40821073])
STD = np.array([0.26862954, 0.26130258, 0.27577711])


@dataclasses.dataclass(frozen=True)
class Clip:
    """Frames of a video, or an image; both sides are multiples of 28."""
    frames: int
    height: int
    width: int
    image: bool = False


@dataclasses.dataclass(frozen=True)
class Case:
    """One prompt to one model."""
    recipe: str
    clips: tuple = ()
    question: str = "What is it?"
    frame_rate: float = 2.0
    seed: int = 0
    max_tokens: int = 64


IMAGE = Clip(1, 56, 84, image=True)
CASES = {
    # Windows of 2 x 2 cells over 2 x 3: the last column is half a window.
    "tied": Case("tied", (Clip(4, 56, 84),)),
    "untied": Case("untied", (Clip(4, 84, 56),)),
    "bf16": Case("bf16", (Clip(2, 56, 56),)),
    "f16": Case("f16", (Clip(2, 56, 84),)),
    "group3": Case("group3", (Clip(4, 56, 56),)),
    "group7": Case("group7", (Clip(4, 56, 84),)),
    "one-cell": Case("tied", (Clip(2, 28, 28),), seed=1),
    "one-row": Case("tied", (Clip(4, 28, 140),)),
    "one-column": Case("untied", (Clip(2, 140, 28),), seed=1),
    "odd-grid": Case("tied", (Clip(2, 84, 140),), seed=1),
    "odd-frames": Case("untied", (Clip(5, 56, 56),)),
    # Windows of 4 x 4 cells: below one, just one, one and a bit either way.
    "window-below": Case("window4", (Clip(2, 84, 84),)),
    "window-exact": Case("window4", (Clip(2, 112, 112),)),
    "window-beyond": Case("window4", (Clip(2, 140, 112),)),
    "window-ragged": Case("window4", (Clip(2, 140, 196),)),
    # 0.75 frames a second: steps of 2.67 s, whose doubles are 0, 5.33, 10.67: truncated after the product.
    "slow": Case("tied", (Clip(8, 28, 56),), frame_rate=0.75),
    "fast": Case("tied", (Clip(8, 28, 56),), frame_rate=24.0),
    "two-videos": Case("untied", (Clip(4, 56, 56), Clip(2, 84, 56))),
    "image": Case("tied", (IMAGE,)),
    "image-and-video": Case("untied", (IMAGE, Clip(4, 56, 56))),
    "text": Case("tied", (), "Say one word.", seed=2),
    "one-token": Case("group3", (Clip(2, 28, 28),), max_tokens=1),
}


def frames(case, index):
    """uint8 [T, H, W, 3] of a clip: smooth waves plus noise, so that patches differ and neighbours agree."""
    clip = case.clips[index]
    shape = (clip.frames, clip.height, clip.width, 3)
    source = np.random.Philox(key=[zlib.crc32(repr(case.clips).encode()), index])
    noise = source.random_raw(int(np.prod(shape))) % 64
    t, y, x, c = np.meshgrid(*[np.arange(n) for n in shape], indexing="ij")
    ramp = (11 * t + 3 * y * (1 + c) + 5 * x) % 192
    return (ramp + noise.reshape(shape).astype(np.int64)).astype(np.uint8)


def patchify(clip_frames):
    """float32 [patches, 1176] and the grid [t, h, w] in patches, as docs/model.md lays them out."""
    pixels = clip_frames if len(clip_frames) % 2 == 0 else np.concatenate([clip_frames, clip_frames[-1:]])
    t, h, w = len(pixels) // 2, pixels.shape[1] // 14, pixels.shape[2] // 14
    x = ((pixels / 255.0 - MEAN) / STD).astype(np.float32)
    x = x.reshape(t, 2, h // 2, 2, 14, w // 2, 2, 14, 3)
    #    0  1  2       3  4   5       6  7   8 -> t, block row, block column, row, column; c, frame, y, x
    x = x.transpose(0, 2, 5, 3, 6, 8, 1, 4, 7)
    return x.reshape(t * h * w, 1176), (t, h, w)


def render(case, pads):
    """The prompt's text; `pads` is how many pad tokens each clip gets."""
    parts = ""
    for clip, count in zip(case.clips, pads):
        pad = "<|image_pad|>" if clip.image else "<|video_pad|>"
        parts += "<|vision_start|>" + pad * count + "<|vision_end|>"
    return (f"<|im_start|>system\n{SYSTEM}<|im_end|>\n<|im_start|>user\n{parts}{case.question}<|im_end|>\n"
            "<|im_start|>assistant\n")


def positions(ids, grids, special, case, tokens_per_second=2):
    """int64 [3, tokens] by the rule of Qwen's training code: seconds times rate in float32, then truncated."""
    out, start, clip, at = [], 0, 0, 0
    while at < len(ids):
        if ids[at] not in (special["<|image_pad|>"], special["<|video_pad|>"]):
            out.append(np.full((3, 1), start))
            start, at = start + 1, at + 1
            continue
        t, h, w = grids[clip][0], grids[clip][1] // 2, grids[clip][2] // 2
        seconds = np.float32(0 if case.clips[clip].image else 2 / case.frame_rate)
        steps = (np.arange(t, dtype=np.float32) * seconds * np.float32(tokens_per_second)).astype(np.int64)
        cells = np.stack(np.meshgrid(steps, np.arange(h), np.arange(w), indexing="ij")).reshape(3, -1) + start
        out.append(cells)
        start, at, clip = int(cells.max()) + 1, at + t * h * w, clip + 1
    return np.concatenate(out, axis=1)
