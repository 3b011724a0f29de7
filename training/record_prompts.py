# SPDX-License-Identifier: Apache-2.0
"""Prompts of the demo model as token ids and .npy frames, for machines without FFmpeg and the tokenizer's libraries.

    python training/record_prompts.py --out /tmp/prompts --per-task 25     # the 8 examples and 200 held-out items

The folder gets frames as make_eval.py writes them and prompts.json: {"items": [{"id", "clip", "ids"}]}, where `ids`
hold the ChatML prompt with one pad id for the clip. tests/engine/cuda/demo_test.cpp asks them of both backends.
"""

import argparse
import json
from pathlib import Path

import numpy as np
import tasks
import world
from make_eval import SEED, scene_of
from make_examples import CLIPS
from make_examples import SEED as EXAMPLE_SEED
from tokenizers import Tokenizer
from vocab import Vocab

TEMPLATE = ("<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n"
            "<|im_start|>user\n<|vision_start|><|video_pad|><|vision_end|>{}<|im_end|>\n<|im_start|>assistant\n")


def scenes(per_task):
    """(name, seed, task or None for all tasks) of every scene."""
    for task, (name, number) in CLIPS.items():
        yield name, EXAMPLE_SEED + number, task
    for number in range(per_task):
        yield f"scene{number:05d}", SEED + number, None


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--per-task", type=int, default=25)
    parser.add_argument("--tokenizer", type=Path, default=Path("models/demo/tokenizer.json"))
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    maker, tokenizer, items = tasks.Tasks(Vocab(args.tokenizer)), Tokenizer.from_file(str(args.tokenizer)), []
    for name, seed, wanted in scenes(args.per_task):
        scene, triples = scene_of(maker, seed)
        frames = world.render(scene, world.sampled_seconds())[0].permute(0, 2, 3, 1)
        np.save(args.out / f"{name}.npy", np.ascontiguousarray(frames.numpy()))
        items += [{"id": f"{name}-{task}", "clip": f"{name}.npy",
                   "ids": tokenizer.encode(TEMPLATE.format(question), add_special_tokens=False).ids}
                  for task, question, _ in triples if wanted in (None, task)]
    (args.out / "prompts.json").write_text(json.dumps({"items": items}) + "\n", encoding="utf-8")
    print(f"{len(items)} prompts in {args.out}")


if __name__ == "__main__":
    main()
