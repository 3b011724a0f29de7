# SPDX-License-Identifier: Apache-2.0
"""Answers questions with the checkpoint in transformers (CPU, float32) and prints the exact match of each task.

    python training/check_export.py --json tests/golden/demo_oracle.json    # the shipped examples
    python training/check_export.py --items /tmp/eval/manifest.json         # a manifest of make_eval.py

An answer is right when its text is the expected one, character by character.
"""

import argparse
import json
from pathlib import Path

import numpy as np
import torch

from answering import Answerer
from clips import read_clip


def load_items(path):
    """Items of questions.json (a list, "clip") or of a manifest ("items", "media"), all with a "clip"."""
    data = json.loads(path.read_text(encoding="utf-8"))
    if isinstance(data, dict):
        return [{"clip": item["media"][0], **{k: item[k] for k in ("question", "answer", "task")}}
                for item in data["items"]]
    return data


def read_frames(path):
    """The sampled frames, uint8 [32,H,W,3], of a clip or of an array that holds them already."""
    return np.load(path) if path.suffix == ".npy" else read_clip(path)


def arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, default=Path("models/demo"))
    parser.add_argument("--items", type=Path, default=Path("examples/questions.json"))
    parser.add_argument("--bf16", action="store_true", help="compute in bfloat16 instead of float32")
    parser.add_argument("--json", type=Path, help="also write ids and texts of all answers here")
    return parser.parse_args()


def main():
    args = arguments()
    items = load_items(args.items)
    answerer = Answerer(args.model, torch.bfloat16 if args.bf16 else torch.float32)
    results, score = [], {}
    for item in items:
        frames = read_frames(args.items.parent / item["clip"])
        text, ids = answerer.answer(frames, item["question"])
        right = text == item["answer"]
        score.setdefault(item.get("task", "all"), []).append(right)
        results.append(item | {"output": text, "output_ids": ids, "right": right})
        if not right:
            print(f"{item['clip']}: {item['question']}\n  expected {item['answer']}\n  got      {text}", flush=True)
    for task, rights in score.items():
        print(f"{task:8} {sum(rights)}/{len(rights)}")
    lengths = [len(r["output_ids"]) - 1 for r in results]
    print(f"exact match {sum(r['right'] for r in results) / len(results):.4f} of {len(results)}, "
          f"answers of {min(lengths)} to {max(lengths)} tokens")
    if args.json:
        args.json.write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
