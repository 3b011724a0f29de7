# SPDX-License-Identifier: Apache-2.0
"""Answers the example questions with the checkpoint in transformers (CPU, float32) and prints the accuracy.

    python training/check_export.py --model models/demo --examples examples [--json answers.json]

`--set DIR` answers a folder of make_eval.py instead.
"""

import argparse
import json
from pathlib import Path

import numpy as np
import torch

from answering import Answerer
from clips import read_clip


def load_items(args):
    if args.set:
        return args.set, json.loads((args.set / "manifest.json").read_text())
    return args.examples, json.loads((args.examples / "questions.json").read_text())


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, default=Path("models/demo"))
    parser.add_argument("--examples", type=Path, default=Path("examples"))
    parser.add_argument("--set", type=Path)
    parser.add_argument("--bf16", action="store_true", help="compute in bfloat16 instead of float32")
    parser.add_argument("--json", type=Path, help="also write ids and texts of all answers here")
    args = parser.parse_args()
    folder, items = load_items(args)
    answerer = Answerer(args.model, torch.bfloat16 if args.bf16 else torch.float32)
    results, score = [], {}
    for item in items:
        path = folder / item["clip"]
        frames = np.load(path) if path.suffix == ".npy" else read_clip(path)
        text, ids = answerer.answer(frames, item["question"])
        right = text == item["answer"]
        score.setdefault(item.get("task", "all"), []).append(right)
        results.append(item | {"output": text, "ids": ids, "right": right})
        if not right:
            print(f"{item['clip']}: {item['question']}\n  expected {item['answer']}\n  got      {text}")
    for task, rights in score.items():
        print(f"{task:8} {sum(rights)}/{len(rights)}")
    print(f"exact match {sum(r['right'] for r in results) / len(results):.3f} of {len(results)}")
    if args.json:
        args.json.write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
