# SPDX-License-Identifier: Apache-2.0
"""Writes held-out items of every task: sampled frames as .npy (and whole clips as .mp4) with a manifest.

    python training/make_eval.py --per-task 25 --out /tmp/eval [--mp4] [--vocab models/demo/tokenizer.json]

One scene serves one item of each task, so N scenes give N items a task. Seeds are disjoint from training.
With --mp4, manifest_mp4.json names the clips of the same items.
"""

import argparse
import json
from pathlib import Path

import numpy as np
import torch

import tasks
import world
from vocab import Vocab

SEED = 9_000_000   # training draws from other generators; its own held-out scenes start at 7,000,000


def items_of(maker, index):
    """Scene number `index` and its [task, question, answer] triples."""
    generator = torch.Generator().manual_seed(SEED + index)
    scene = world.sample_scenes(1, generator)
    ids, mark = maker.fill(scene, tasks.sample_picks(1, generator))
    return scene, [(name, *maker.texts(ids[0, k], mark[0, k])) for k, name in enumerate(tasks.NAMES)]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--per-task", type=int, default=25, help="scenes, and so items of each task")
    parser.add_argument("--first", type=int, default=0, help="number of the first scene")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--mp4", action="store_true", help="also write 128-frame H.264 clips (needs PyAV)")
    parser.add_argument("--vocab", type=Path, default=Path("models/demo/tokenizer.json"))
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    maker = tasks.Tasks(Vocab(args.vocab))
    device = "cuda" if torch.cuda.is_available() else "cpu"
    manifest = []
    for n in range(args.first, args.first + args.per_task):
        scene, questions = items_of(maker, n)
        name = f"scene{n:05d}"
        frames = world.render(scene.to(device), world.sampled_seconds(device))[0].permute(0, 2, 3, 1)
        np.save(args.out / f"{name}.npy", frames.cpu().numpy())
        if args.mp4:
            from clips import render_clip, write_clip
            write_clip(args.out / f"{name}.mp4", render_clip(scene))
        manifest += [{"id": f"{name}-{task}", "task": task, "clip": f"{name}.npy", "question": q, "answer": a}
                     for task, q, a in questions]
    manifest.sort(key=lambda item: tasks.NAMES.index(item["task"]))
    (args.out / "manifest.json").write_text(json.dumps(manifest, indent=1) + "\n")
    if args.mp4:
        clips = [item | {"clip": item["clip"].replace(".npy", ".mp4")} for item in manifest]
        (args.out / "manifest_mp4.json").write_text(json.dumps(clips, indent=1) + "\n")
    print(f"{len(manifest)} items of {args.per_task} scenes in {args.out}")


if __name__ == "__main__":
    main()
