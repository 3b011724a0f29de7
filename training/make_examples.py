# SPDX-License-Identifier: Apache-2.0
"""Writes the example clips and examples/questions.json: one scene for each task (needs PyAV).

    python training/make_examples.py --out examples && python training/check_export.py
"""

import argparse
import json
from pathlib import Path

import tasks
from make_eval import scene_of
from vocab import Vocab

SEED = 8_000_000
# task -> (file name, number of its scene). Counting, ordering and listing need details from several moments.
CLIPS = {"change": ("color-change", 13), "count": ("flashes", 2), "order": ("order", 22), "appear": ("visitor", 14),
         "list": ("three-visitors", 6), "motion": ("move", 17), "scene": ("background", 12), "fate": ("fate", 9)}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("examples"))
    parser.add_argument("--vocab", type=Path, default=Path("models/demo/tokenizer.json"))
    args = parser.parse_args()
    from clips import render_clip, write_clip  # PyAV, which record_prompts.py does without
    maker, items = tasks.Tasks(Vocab(args.vocab)), []
    for task, (name, number) in CLIPS.items():
        scene, triples = scene_of(maker, SEED + number)
        write_clip(args.out / f"{name}.mp4", render_clip(scene))
        items += [{"clip": f"{name}.mp4", "question": q, "answer": a} for t, q, a in triples if t == task]
    (args.out / "questions.json").write_text(json.dumps(items, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
