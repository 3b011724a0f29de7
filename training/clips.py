# SPDX-License-Identifier: Apache-2.0
"""Writes and reads the mp4 clips (PyAV)."""

import av
import numpy as np
import torch

import world


def write_clip(path, frames, crf=18, gop=12):
    """uint8 [T,H,W,3] -> H.264 yuv420p, BT.601 limited range and tagged so."""
    with av.open(str(path), "w", options={"movflags": "+faststart"}) as out:
        stream = out.add_stream("libx264", rate=world.CLIP_FPS)
        stream.width = stream.height = world.SIZE
        stream.pix_fmt = "yuv420p"
        stream.options = {"crf": str(crf), "g": str(gop), "preset": "slow", "x264-params": "colormatrix=smpte170m:colorprim=smpte170m:transfer=smpte170m:range=tv"}
        context = stream.codec_context
        context.colorspace, context.color_range = 5, 1           # BT.601 (SMPTE 170M), limited
        context.color_primaries, context.color_trc = 6, 6
        for image in frames:
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(image), format="rgb24")
            frame = frame.reformat(format="yuv420p", src_colorspace="ITU601", dst_colorspace="ITU601")
            out.mux(stream.encode(frame))
        out.mux(stream.encode())


def read_clip(path):
    """The frames the engine samples from a clip: uint8 [32,H,W,3]."""
    with av.open(str(path)) as clip:
        frames = [f.to_ndarray(format="rgb24") for f in clip.decode(video=0)]
    index = torch.linspace(0, len(frames) - 1, world.SAMPLED_FRAMES).round().long().tolist()
    return np.stack([frames[i] for i in index])


def clip_seconds():
    """Times of all frames of a clip."""
    return torch.arange(world.CLIP_FRAMES) / world.CLIP_FPS


def render_clip(scene):
    """All 128 frames [T,H,W,3] of one scene (a batch of one), a second at a time to save memory."""
    parts = [world.render(scene, t)[0] for t in clip_seconds().split(world.CLIP_FPS)]
    return torch.cat(parts).permute(0, 2, 3, 1).numpy()
