#!/usr/bin/env python3
"""Writes tests/golden/media: what torch and Pillow make of the inputs that tests/media/golden_input.h generates.

Needs torch and Pillow (neither is needed to run the tests). Run it as `python3 tools/make_media_goldens.py`.

sampling.txt   a hash of the sampled frame indices for each 100 of 20,000 random clips, flags and ranges
torch.bin      50 pictures, each: height, width, new height, new width (uint16, little-endian), then the RGB bytes of
               interpolate(mode="bicubic", antialias=True), clamped and rounded
pillow.bin     the same pictures through Pillow's BICUBIC, horizontal first, then vertical
"""

import math
import pathlib
import struct

import numpy
import torch
from PIL import Image

OUT = pathlib.Path(__file__).resolve().parent.parent / "tests" / "golden" / "media"
MASK = (1 << 64) - 1
CASES, PER_HASH, PICTURES = 20_000, 100, 50
RATES = [(25, 1), (30, 1), (30000, 1001), (24000, 1001), (179, 6), (25, 2), (60, 1), (1, 1), (1, 5), (240, 1), (15, 1), (50, 1)]


class Random:
    """SplitMix64, as in golden_input.h."""

    def __init__(self, seed: int):
        self.state = seed

    def next(self) -> int:
        self.state = (self.state + 0x9E3779B97F4A7C15) & MASK
        z = self.state
        z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & MASK
        z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & MASK
        return z ^ (z >> 31)

    def below(self, limit: int) -> int:
        return self.next() % limit


def sample(total: int, rate: float, fps, frames, start, end):
    """The reference's frame indices (qwen-vl-utils, as docs/model.md states it), or None where it refuses."""
    first, last = 0, total - 1
    duration = total / rate
    if start is not None:
        first = math.ceil(max(0.0, min(start, duration)) * rate)
    if end is not None:
        last = min(math.floor(max(0.0, min(end, duration)) * rate), total - 1)
    if first >= last:
        return None
    span = last - first + 1
    if frames is not None:
        count = round(frames / 2) * 2
    else:
        least, most = 4, min(768, span) // 2 * 2
        count = min(min(max(span / rate * (2.0 if fps is None else fps), least), most), span)
        count = math.floor(count / 2) * 2
    if not 2 <= count <= span:
        return None
    return torch.linspace(first, last, count).round().long().tolist()


def random_case(random: Random) -> dict:
    total = 2 + random.below(4999)
    numerator, denominator = RATES[random.below(len(RATES))]
    rate = numerator / denominator
    case = {"total": total, "rate": rate, "fps": None, "frames": None, "start": None, "end": None}
    kind = random.below(4)
    if kind == 1:
        case["fps"] = (1 + random.below(400)) / 40
    if kind == 2:
        case["frames"] = 1 + random.below(min(total, 900) + 1)
    if random.below(3) == 0:
        case["start"] = random.below(int(total / rate * 50) + 1) / 100
    if random.below(3) == 0:
        case["end"] = random.below(int(total / rate * 110) + 1) / 100
    return case


def hash_of(values, state: int) -> int:
    """FNV-1a over 64-bit words."""
    for value in values:
        state = ((state ^ (value & MASK)) * 0x100000001B3) & MASK
    return state


def write_sampling() -> None:
    random = Random(1)
    lines, state = [], 0xCBF29CE484222325
    for i in range(CASES):
        indices = sample(**random_case(random))
        state = hash_of([-1] if indices is None else [len(indices), *indices], state)
        if i % PER_HASH == PER_HASH - 1:
            lines.append(f"{state:016x}")
    (OUT / "sampling.txt").write_text("\n".join(lines) + "\n")


def random_picture(random: Random) -> tuple[numpy.ndarray, int, int]:
    """Bytes of noise, of flat areas and of edges; small, since only the arithmetic is in question."""
    height, width = (1 + random.below(40) for _ in range(2))
    # Not 1: torch 2.13 reads wrong rows where the new width is 1 (ours is a multiple of 28).
    new_height, new_width = (2 + random.below(40) for _ in range(2))
    block = 1 + random.below(6)
    picture = numpy.zeros((height, width, 3), numpy.uint8)
    for y in range(height):
        for x in range(width):
            for c in range(3):
                inside = y % block or x % block
                picture[y, x, c] = picture[y - y % block, x - x % block, c] if inside else random.below(256)
    return picture, new_height, new_width


def torch_resize(picture: numpy.ndarray, height: int, width: int) -> numpy.ndarray:
    x = torch.from_numpy(picture).permute(2, 0, 1)[None].float()
    x = torch.nn.functional.interpolate(x, size=(height, width), mode="bicubic", antialias=True)
    return x.clamp(0, 255).round().to(torch.uint8)[0].permute(1, 2, 0).contiguous().numpy()


def pillow_resize(picture: numpy.ndarray, height: int, width: int) -> numpy.ndarray:
    # Two calls: some versions of Pillow run the vertical pass first where that is less work.
    image = Image.fromarray(picture)
    image = image.resize((width, image.height), Image.Resampling.BICUBIC)
    return numpy.asarray(image.resize((width, height), Image.Resampling.BICUBIC))


def write_pictures(name: str, resize) -> None:
    random = Random(2)
    with open(OUT / name, "wb") as out:
        for _ in range(PICTURES):
            picture, height, width = random_picture(random)
            out.write(struct.pack("<4H", *picture.shape[:2], height, width))
            out.write(resize(picture, height, width).tobytes())


def main() -> None:
    OUT.mkdir(parents=True, exist_ok=True)
    write_sampling()
    write_pictures("torch.bin", torch_resize)
    write_pictures("pillow.bin", pillow_resize)


if __name__ == "__main__":
    main()
