"""What the media tests compare with: clips made by the ffmpeg program, its decoder, and NumPy and Pillow resizing."""

import functools
import math
import shutil
import subprocess

import numpy
import pytest
from PIL import Image, ImageOps

from helpers import load_trace, run

MEAN = numpy.array((0.48145466, 0.4578275, 0.40821073))
STD = numpy.array((0.26862954, 0.26130258, 0.27577711))
PATCH, MERGE = 14, 2
SCALER = "bicubic+accurate_rnd+full_chroma_int+full_chroma_inp"
SOURCE = "testsrc2=size=160x120:rate=25:duration=2"


def ffmpeg(*args) -> bytes:
    """Runs the ffmpeg program and returns its standard output; skips where there is none."""
    program = shutil.which("ffmpeg") or pytest.skip("no ffmpeg program")
    return subprocess.run([program, "-v", "error", "-y", *map(str, args)], capture_output=True, check=True).stdout


@functools.cache
def encoders() -> str:
    """The list that ffmpeg prints."""
    return ffmpeg("-encoders").decode()


def make_clip(path, options: str, source: str = SOURCE):
    """Encodes a test pattern into `path`; skips where ffmpeg lacks the encoder."""
    words = options.split()
    encoder = words[words.index("-c:v") + 1]
    if f" {encoder} " not in encoders():
        pytest.skip(f"this ffmpeg has no encoder {encoder}")
    ffmpeg("-f", "lavfi", "-i", source, *words, path)
    return path


def decode(path, stream: str = "0:v:0") -> numpy.ndarray:
    """Every frame as ffmpeg decodes it, not rotated: uint8 [T, H, W, 3]."""
    sizes = subprocess.run(["ffprobe", "-v", "error", "-select_streams", stream[2:], "-show_entries",
                            "stream=width,height", "-of", "csv=p=0", path], capture_output=True, check=True)
    width, height = map(int, sizes.stdout.split()[0].strip(b",").split(b",")[:2])
    raw = ffmpeg("-noautorotate", "-i", path, "-map", stream, "-vsync", "passthrough", "-vf",
                 f"scale=iw:ih:flags={SCALER}", "-sws_flags", SCALER, "-f", "rawvideo", "-pix_fmt", "rgb24", "-")
    return numpy.frombuffer(raw, numpy.uint8).reshape(-1, height, width, 3)


def cubic(x: float) -> float:
    """The cubic kernel with a = -0.5."""
    x = abs(x)
    if x < 1:
        return 1.5 * x**3 - 2.5 * x**2 + 1
    return -0.5 * (x**3 - 5 * x**2 + 8 * x - 4) if x < 2 else 0.0


@functools.cache
def resize_matrix(old: int, new: int) -> numpy.ndarray:
    """[new, old]: antialiased cubic weights."""
    scale = old / new
    stretch = max(scale, 1.0)
    matrix = numpy.zeros((new, old))
    for i in range(new):
        center = (i + 0.5) * scale
        first = max(0, int(center - 2 * stretch + 0.5))
        for j in range(first, min(old, int(center + 2 * stretch + 0.5))):
            matrix[i, j] = cubic((j - center + 0.5) / stretch)
    return matrix / matrix.sum(1, keepdims=True)


def resize_frames(frames: numpy.ndarray, height: int, width: int) -> numpy.ndarray:
    """[T, H, W, 3] in floating point, clamped and rounded once."""
    x = numpy.einsum("yh,thwc->tywc", resize_matrix(frames.shape[1], height), frames.astype(float))
    x = numpy.einsum("xw,tywc->tyxc", resize_matrix(frames.shape[2], width), x)
    return numpy.rint(numpy.clip(x, 0, 255)).astype(numpy.uint8)


def pillow_pixels(path, height: int, width: int) -> numpy.ndarray:
    """An image through Pillow: orientation, RGBA on white, two bicubic passes of 8 bits, horizontal first."""
    with Image.open(path) as stored:
        image = ImageOps.exif_transpose(stored)
    if image.mode == "RGBA":
        ground = Image.new("RGB", image.size, (255, 255, 255))
        ground.paste(image, mask=image.getchannel("A"))
        image = ground
    image = image.convert("RGB")
    image = image.resize((width, image.height), Image.Resampling.BICUBIC)
    return numpy.asarray(image.resize((width, height), Image.Resampling.BICUBIC))


def linspace(start: int, end: int, count: int) -> list[int]:
    """torch.linspace in float32, a fused multiply-add a step, rounded half to even."""
    step = numpy.float64(numpy.float32(numpy.float32(end - start) / numpy.float32(count - 1)))
    i = numpy.arange(count)
    x = numpy.where(i < count // 2, start + step * i, end - step * (count - 1 - i)).astype(numpy.float32)
    return numpy.rint(x).astype(int).tolist()


def smart_resize(height, width, low, high):
    """The reference's size in pixels."""
    unit = PATCH * MERGE
    new = [max(unit, round(side / unit) * unit) for side in (height, width)]
    if new[0] * new[1] > high:
        beta = math.sqrt(height * width / high)
        new = [max(unit, math.floor(side / beta / unit) * unit) for side in (height, width)]
    elif new[0] * new[1] < low:
        beta = math.sqrt(low / (height * width))
        new = [math.ceil(side * beta / unit) * unit for side in (height, width)]
    return new


def unpatch(pixels: numpy.ndarray, grid) -> numpy.ndarray:
    """pixel_values of one medium back to uint8 frames [T, H, W, 3]."""
    t, h, w = grid
    x = pixels.reshape(t, h // MERGE, w // MERGE, MERGE, MERGE, 3, 2, PATCH, PATCH)
    x = x.transpose(0, 6, 1, 3, 7, 2, 4, 8, 5).reshape(t * 2, h * PATCH, w * PATCH, 3)
    return numpy.rint((x * STD + MEAN) * 255).astype(numpy.uint8)


def frames_of(model, folder, media, *flags):
    """One run: the media of its JSON, and the frames that the tower got, a list of uint8 [T, H, W, 3]."""
    trace = folder / "trace"
    shutil.rmtree(trace, ignore_errors=True)
    result = run(["ask", "--model", model, "--json", "--trace", trace, "--max-tokens", "1", *flags, *media, "what?"],
                 cwd=folder)
    described = result.json()["prompt"]["media"]
    pixels, frames, at = load_trace(trace)["pixel_values"], [], 0
    for medium in described:
        rows = math.prod(medium["grid_thw"])
        frames.append(unpatch(pixels[at:at + rows], medium["grid_thw"]))
        at += rows
    assert at == len(pixels)
    return described, frames


def difference(a: numpy.ndarray, b: numpy.ndarray) -> int:
    """The largest one, in levels."""
    assert a.shape == b.shape
    return int(numpy.abs(a.astype(int) - b.astype(int)).max())
