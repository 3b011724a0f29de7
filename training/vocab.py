# SPDX-License-Identifier: Apache-2.0
"""The demo model's vocabulary without the `tokenizers` package: enough for the words of tasks.py."""

import functools
import json
import re


class Vocab:
    """Reads tokenizer.json and encodes text by its merges; ASCII only, which is all the tasks need."""

    def __init__(self, path):
        with open(path, encoding="utf-8") as f:
            data = json.load(f)
        self.ids = data["model"]["vocab"]
        self.rank = {tuple(m): i for i, m in enumerate(data["model"]["merges"])}
        special = {t["content"]: t["id"] for t in data["added_tokens"]}
        self.text = {i: t for t, i in self.ids.items()}
        self.pad, self.start, self.end = (special[f"<|{n}|>"] for n in ("endoftext", "im_start", "im_end"))
        self.vision_start, self.vision_end = special["<|vision_start|>"], special["<|vision_end|>"]
        self.video_pad = special["<|video_pad|>"]
        self._word = functools.lru_cache(None)(self._merge)

    def _merge(self, word):
        parts = list(word.replace(" ", "Ġ").replace("\n", "Ċ"))
        while len(parts) > 1:
            rank, at = min((self.rank.get(pair, 1 << 30), i) for i, pair in enumerate(zip(parts, parts[1:])))
            if rank == 1 << 30:
                break
            parts[at:at + 2] = [parts[at] + parts[at + 1]]
        return [self.ids[p] for p in parts]

    def encode(self, text):
        """Ids of ASCII text without special tokens (the pre-tokeniser's cuts, for plain words)."""
        return [i for word in re.findall(r" ?[A-Za-z]+|[0-9]| ?[^\sA-Za-z0-9]+|\n|\s", text) for i in self._word(word)]

    def decode(self, ids):
        return "".join(self.text[i] for i in ids).replace("Ġ", " ").replace("Ċ", "\n")
