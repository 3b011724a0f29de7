# SPDX-License-Identifier: Apache-2.0
"""Writes held-out items of every task for `purekv eval` (and check_export.py).

    python training/make_eval.py --out /tmp/eval                        # 200 items of each of 8 tasks
    python training/make_eval.py --out /tmp/eval --per-task 25 --mp4    # 200 items, also as mp4 clips

The folder gets sceneNNNNN.npy, the 32 sampled frames as uint8 [32,168,168,3] (2.7 MB), and manifest.json; one
scene serves one item of each task, so 200 scenes are 1600 items in 0.54 GB. With --mp4 it also gets the whole
128-frame clips (about 0.12 MB each, needs PyAV) and manifest_mp4.json, which asks the same of the clips.
Scenes depend on --first and --per-task only: seeds are disjoint from those of training and of the examples.
"""

import argparse
import json
import multiprocessing
from pathlib import Path

import numpy as np
import torch

import tasks
import world
from vocab import Vocab

SEED = 9_000_000   # training's own held-out scenes start at 7,000,000, the examples at 8,000,000


def scene_of(maker, seed):
    """The scene of a seed and its [task, question, answer] triples."""
    generator = torch.Generator().manual_seed(seed)
    scene = world.sample_scenes(1, generator)
    ids, mark = maker.fill(scene, tasks.sample_picks(1, generator))
    return scene, [(name, *maker.texts(ids[0, k], mark[0, k])) for k, name in enumerate(tasks.NAMES)]


def write_scene(job):
    """Writes the files of one scene; returns its items. Runs in a worker process."""
    number, out, mp4, vocab = job
    torch.set_num_threads(1)
    scene, triples = scene_of(tasks.Tasks(Vocab(vocab)), SEED + number)
    name = f"scene{number:05d}"
    frames = world.render(scene, world.sampled_seconds())[0].permute(0, 2, 3, 1)
    np.save(out / f"{name}.npy", np.ascontiguousarray(frames.numpy()))
    if mp4:
        from clips import render_clip, write_clip
        write_clip(out / f"{name}.mp4", render_clip(scene))
    return [{"id": f"{name}-{task}", "media": [f"{name}.npy"], "question": question, "answer": answer, "task": task}
            for task, question, answer in triples]


def as_mp4(item):
    return item | {"media": [name.replace(".npy", ".mp4") for name in item["media"]]}


def arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--per-task", type=int, default=200, help="scenes, and so items of each task")
    parser.add_argument("--first", type=int, default=0, help="number of the first scene")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--mp4", action="store_true", help="also write 128-frame H.264 clips")
    parser.add_argument("--workers", type=int, default=multiprocessing.cpu_count())
    parser.add_argument("--vocab", type=Path, default=Path("models/demo/tokenizer.json"))
    return parser.parse_args()


def main():
    args = arguments()
    args.out.mkdir(parents=True, exist_ok=True)
    jobs = [(n, args.out, args.mp4, args.vocab) for n in range(args.first, args.first + args.per_task)]
    # A forked child of a process that has run torch's threads can hang, so workers start afresh.
    with multiprocessing.get_context("spawn").Pool(args.workers) as pool:
        items = [item for part in pool.imap(write_scene, jobs) for item in part]
    manifests = {"manifest.json": items}
    if args.mp4:
        manifests["manifest_mp4.json"] = [as_mp4(item) for item in items]
    for name, content in manifests.items():
        (args.out / name).write_text(json.dumps({"items": content}, indent=1) + "\n", encoding="utf-8")
    print(f"{len(items)} items of {args.per_task} scenes in {args.out}")


if __name__ == "__main__":
    main()
