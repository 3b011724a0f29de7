# SPDX-License-Identifier: Apache-2.0
"""Exact match per task on held-out scenes, with the plain torch model (one packed forward pass a scene).

    python training/evaluate.py --scenes 200                # rendered frames
    python training/evaluate.py --scenes 200 --mp4          # the same through H.264 (needs PyAV)
    python training/evaluate.py --scenes 100 --keep 0.2     # questions see a random fifth of the video rows

An answer counts when every token of it is the likeliest one given those before it: exactly when greedy
decoding gives it. Weights are the bf16 ones, arithmetic is fp32.
"""

import argparse
import tempfile
from pathlib import Path

import torch
import torch.nn.functional as F

import export
import losses
import model as M
import tasks
import world
from make_eval import SEED
from train import build_model
from vocab import Vocab


def load(folder):
    vocab = Vocab(folder / "tokenizer.json")
    net = build_model(vocab)
    net.load_state_dict({k: v.float() for k, v in export.read_weights(folder).items()})
    return net.eval(), tasks.Tasks(vocab)


def random_attend(keep, generator):
    """Full attention inside the prefix; a question sees only a random share of the video rows."""
    i = torch.arange(M.LENGTH)
    kept = torch.ones(M.LENGTH, dtype=torch.bool)
    rows = world.STEPS * M.TOKENS
    kept[M.PREFIX_TEXT + torch.randperm(rows, generator=generator)[round(keep * rows):]] = False
    mask = M.slot_visible(i[:, None], i[None, :]) & (kept[None, :] | (i[:, None] < M.PREFIX))
    return lambda q, k, v: F.scaled_dot_product_attention(q, k, v, attn_mask=mask)


def frames_of(scene, mp4, folder):
    if not mp4:
        return world.render(scene, world.sampled_seconds())
    from clips import read_clip, render_clip, write_clip
    write_clip(folder / "clip.mp4", render_clip(scene))
    return torch.from_numpy(read_clip(folder / "clip.mp4")).permute(0, 3, 1, 2)[None]


@torch.no_grad()
def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, default=Path("models/demo"))
    parser.add_argument("--scenes", type=int, default=200)
    parser.add_argument("--mp4", action="store_true")
    parser.add_argument("--keep", type=float, default=1.0)
    args = parser.parse_args()
    net, maker = load(args.model)
    right = torch.zeros(len(tasks.NAMES))
    shuffle = torch.Generator().manual_seed(1)
    attend = M.dense_attend("cpu")
    with tempfile.TemporaryDirectory() as folder:
        for n in range(args.scenes):
            generator = torch.Generator().manual_seed(SEED + n)
            scene = world.sample_scenes(1, generator)
            slots, mark = maker.fill(scene, tasks.sample_picks(1, generator))
            if args.keep < 1:
                attend = random_attend(args.keep, shuffle)
            video = net.encode(frames_of(scene, args.mp4, Path(folder)), torch.float32)
            rows, target, valid = losses.answer_rows(net.hidden(video, slots, attend)[0], slots, mark)
            right += losses.answer_loss(net.logits(rows), target, valid)[1].float()[0]
    for name, value in zip(tasks.NAMES, right / args.scenes):
        print(f"{name:8} {value:.3f}")
    print(f"mean     {right.mean() / args.scenes:.4f} ({args.scenes} items a task)")


if __name__ == "__main__":
    main()
