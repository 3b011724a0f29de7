"""Writes tests/golden/parity/*.npz: what transformers computes for the cases of parity_cases.py.

    python tools/make_goldens.py [--only NAME ...]

Needs torch and transformers 5.17. Float32, CPU, eager attention; positions are passed explicitly, since
transformers' own rule changed between releases.
"""

import argparse
import hashlib
import tempfile
from pathlib import Path

import numpy as np
import parity_cases
import torch
from make_checkpoint import RECIPES, special_ids, write_checkpoint
from parity_cases import CASES
from tokenizers import Tokenizer
from transformers import Qwen2_5_VLForConditionalGeneration

GOLDEN = Path(__file__).resolve().parent.parent / "tests" / "golden" / "parity"
# Two logits closer than this part of the largest could change places by rounding: such a case proves nothing.
MIN_MARGIN = 2e-4


def checkpoint_digest(folder):
    """One digest over the weight files of a checkpoint."""
    digest = hashlib.sha256()
    for path in sorted(Path(folder).glob("*.safetensors")):
        digest.update(path.read_bytes())
    return digest.hexdigest()


def media(case):
    """Keyword arguments of the model for the case's clips, and their grids in prompt order."""
    inputs, grids = {}, []
    for kind, pixels, grid in (("image", "pixel_values", "image_grid_thw"),
                               ("video", "pixel_values_videos", "video_grid_thw")):
        chosen = [i for i, clip in enumerate(case.clips) if clip.image == (kind == "image")]
        if chosen:
            made = [parity_cases.patchify(parity_cases.frames(case, i)) for i in chosen]
            inputs[pixels] = torch.from_numpy(np.concatenate([x for x, _ in made]))
            inputs[grid] = torch.tensor([g for _, g in made])
    for i in range(len(case.clips)):
        grids.append(parity_cases.patchify(parity_cases.frames(case, i))[1])
    return inputs, grids


def hook_layers(model, hidden):
    """Collects the input of the first layer and the output of every layer, before the final norm."""
    layers = model.model.language_model.layers
    layers[0].register_forward_pre_hook(lambda _, args, kwargs: hidden.append(
        (args[0] if args else kwargs["hidden_states"])[0]), with_kwargs=True)
    for layer in layers:
        layer.register_forward_hook(
            lambda _, args, out: hidden.append((out[0] if isinstance(out, tuple) else out).reshape(-1, out[0].shape[-1])))


def greedy(model, first, prompt, place, count):
    """`count` output ids and the logits each was chosen from."""
    logits, ids, cache = [first.logits[0, -1]], [], first.past_key_values
    delta = int(place.max()) + 1 - prompt
    while True:
        ids.append(int(logits[-1].argmax()))
        if len(ids) == count:
            return ids, torch.stack(logits)
        at = torch.full((3, 1, 1), prompt + len(ids) - 1 + delta)
        step = model(input_ids=torch.tensor([[ids[-1]]]), position_ids=at, past_key_values=cache, use_cache=True)
        logits.append(step.logits[0, -1])


def check_margins(name, logits):
    top = logits.topk(2, dim=-1).values
    margin = float((top[:, 0] - top[:, 1]).min() / logits.abs().max())
    print(f"{name}: smallest margin {margin:.5f}")
    if margin < MIN_MARGIN:
        raise SystemExit(f"{name}: margin {margin} is a near-tie: give the case another seed")


@torch.no_grad()
def run(name, case, folder):
    """The golden of one case as a dict of arrays."""
    model = Qwen2_5_VLForConditionalGeneration.from_pretrained(folder, dtype=torch.float32,
                                                               attn_implementation="eager").eval()
    hidden = []
    hook_layers(model, hidden)
    inputs, grids = media(case)
    text = parity_cases.render(case, [t * h * w // 4 for t, h, w in grids])
    ids = Tokenizer.from_file(str(Path(folder) / "tokenizer.json")).encode(text).ids
    place = parity_cases.positions(ids, grids, special_ids(), case)
    first = model(input_ids=torch.tensor([ids]), position_ids=torch.from_numpy(place)[:, None], use_cache=True,
                  **inputs)
    golden = {f"hidden_{i:02d}": h.numpy().copy() for i, h in enumerate(hidden)}
    output_ids, logits = greedy(model, first, len(ids), place, case.max_tokens)
    check_margins(name, logits)
    print(f"{name}: {len(ids)} prompt tokens, {len(set(output_ids))} different of {len(output_ids)} output ids")
    pads = np.isin(ids, [special_ids()["<|image_pad|>"], special_ids()["<|video_pad|>"]])
    return {**golden, "prompt_ids": np.array(ids, np.int32), "position_ids": place.astype(np.int32),
            "grid_thw": np.array(grids, np.int32).reshape(-1, 3), "vision": golden["hidden_00"][pads],
            "logits": logits.numpy(), "output_ids": np.array(output_ids, np.int32),
            "checkpoint": np.array(checkpoint_digest(folder))}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="*", default=list(CASES))
    args = parser.parse_args()
    GOLDEN.mkdir(parents=True, exist_ok=True)
    for name in args.only:
        case = CASES[name]
        with tempfile.TemporaryDirectory() as folder:
            write_checkpoint(folder, RECIPES[case.recipe], case.seed)
            np.savez_compressed(GOLDEN / f"{name}.npz", **run(name, case, folder))


if __name__ == "__main__":
    main()
