# SPDX-License-Identifier: Apache-2.0
"""Greedy answers of a checkpoint in transformers, with positions by Qwen's training rule."""

from pathlib import Path

import torch
from tokenizers import Tokenizer
from transformers import Qwen2_5_VLForConditionalGeneration

import model as M
import tasks

MAX_NEW_TOKENS = 32


class Answerer:
    """transformers' own position rule differs from the one the model was trained with, so ids are passed."""

    def __init__(self, folder, dtype=torch.float32):
        self.net = Qwen2_5_VLForConditionalGeneration.from_pretrained(folder, dtype=dtype).eval()
        self.tokenizer = Tokenizer.from_file(str(Path(folder) / "tokenizer.json"))
        self.video_pad = self.tokenizer.token_to_id("<|video_pad|>")
        self.stop = {self.tokenizer.token_to_id(t) for t in ("<|im_end|>", "<|endoftext|>")}
        self.dtype = dtype

    def prompt(self, question):
        pads = "<|video_pad|>" * (M.PREFIX - M.PREFIX_TEXT - 1)
        return self.tokenizer.encode(
            f"<|im_start|>system\n{tasks.SYSTEM}<|im_end|>\n<|im_start|>user\n<|vision_start|>{pads}<|vision_end|>"
            f"{question}<|im_end|>\n<|im_start|>assistant\n").ids

    @torch.no_grad()
    def answer(self, frames, question):
        """frames uint8 [32,H,W,3] -> (text, generated ids with the end mark)."""
        video = torch.from_numpy(frames).permute(0, 3, 1, 2)[None]
        inputs = {"pixel_values_videos": M.patchify(video, self.dtype).reshape(-1, 1176),
                  "video_grid_thw": torch.tensor([[len(frames) // 2, M.GRID, M.GRID]])}
        ids, cache, out = self.prompt(question), None, []
        place = self._positions(len(ids) + MAX_NEW_TOKENS)
        done = 0
        while len(out) < MAX_NEW_TOKENS:
            tokens = torch.tensor([ids[done:]])
            result = self.net(input_ids=tokens, position_ids=place[:, None, done:len(ids)], past_key_values=cache,
                              mm_token_type_ids=(tokens == self.video_pad).int() * 2, use_cache=True, **inputs)
            inputs, cache, done = {}, result.past_key_values, len(ids)
            out.append(int(result.logits[0, -1].argmax()))
            ids = ids + out[-1:]
            if out[-1] in self.stop:
                break
        return self.tokenizer.decode(out, skip_special_tokens=True), out

    @staticmethod
    def _positions(length):
        """Positions of one question: the packed ones of its first slot, counted on."""
        start = M.positions()[:, :M.PREFIX + 1]
        more = start[:, -1:] + 1 + torch.arange(max(0, length - start.shape[1]))
        return torch.cat([start, more], 1)[:, :length]
