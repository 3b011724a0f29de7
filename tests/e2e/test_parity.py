"""purekv against what transformers computed: tests/golden/parity, written by tools/make_goldens.py."""

import hashlib
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tools"))
import make_checkpoint  # noqa: E402
import parity_cases  # noqa: E402

# Layouts of a shape that has a golden: other files, the same model.
LAYOUTS = {"sharded": "tied", "nested": "tied", "prefix-model": "tied", "prefix-language": "untied"}
RELATIVE = 1e-4


def golden(name):
    """The arrays of one case."""
    with np.load(ROOT / "tests" / "golden" / "parity" / f"{name}.npz") as stored:
        return dict(stored)


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory):
    """A function that writes the checkpoint of a recipe once."""
    made = {}

    def make(recipe, seed):
        if (recipe, seed) not in made:
            out = tmp_path_factory.mktemp(recipe)
            made[recipe, seed] = make_checkpoint.write_checkpoint(out, make_checkpoint.RECIPES[recipe], seed)
        return made[recipe, seed]

    return make


def write_clips(case, folder):
    """Files of the case's media, in prompt order."""
    paths = []
    for i, clip in enumerate(case.clips):
        frames = parity_cases.frames(case, i)
        path = folder / f"clip{i}.{'png' if clip.image else 'npy'}"
        if clip.image:
            Image.fromarray(frames[0]).save(path)
        else:
            np.save(path, frames)
        paths.append(str(path))
    return paths


def ask(purekv_bin, model, case, folder, *more):
    """The JSON object of one run, and its trace directory."""
    trace = folder / "trace"
    command = [purekv_bin, "ask", "--method", "full", "--dtype", "f32", "--device", "cpu", "--model", str(model),
               "--frame-rate", str(case.frame_rate), "--trace", str(trace), "--json", "--ignore-eos",
               "--max-tokens", str(case.max_tokens), *more, *write_clips(case, folder), case.question]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout), trace


def assert_close(actual, expected, what):
    assert actual.shape == expected.shape, what
    assert np.isfinite(actual).all(), what
    worst = np.abs(actual - expected).max(initial=0)
    assert worst <= RELATIVE * np.abs(expected).max(initial=0), f"{what}: {worst}"


def check_trace(trace, expected, case):
    """Every tensor of the trace against the golden."""
    for name in ("prompt_ids", "position_ids", "grid_thw", "output_ids"):
        if name == "grid_thw" and not case.clips:
            continue
        np.testing.assert_array_equal(np.load(trace / f"{name}.npy"), expected[name], err_msg=name)
    if case.clips:
        pixels = [parity_cases.patchify(parity_cases.frames(case, i))[0] for i in range(len(case.clips))]
        assert_close(np.load(trace / "pixel_values.npy"), np.concatenate(pixels), "pixel_values")
        assert_close(np.load(trace / "vision.npy"), expected["vision"], "vision")
    layers = sorted(name for name in expected if name.startswith("hidden_"))
    assert len(layers) == len(list(trace.glob("hidden_*.npy")))
    for name in (*layers, "logits"):
        assert_close(np.load(trace / f"{name}.npy"), expected[name], name)


@pytest.mark.parametrize("name", parity_cases.CASES)
def test_parity(name, purekv_bin, checkpoints, tmp_path):
    case, expected = parity_cases.CASES[name], golden(name)
    model = checkpoints(case.recipe, case.seed)
    digest = hashlib.sha256(b"".join(p.read_bytes() for p in sorted(model.glob("*.safetensors")))).hexdigest()
    assert digest == str(expected["checkpoint"]), "the recipe no longer makes the checkpoint of the golden"
    reply, trace = ask(purekv_bin, model, case, tmp_path)
    check_trace(trace, expected, case)
    assert reply["output_ids"] == expected["output_ids"].tolist()
    assert reply["prompt"]["tokens"] == len(expected["prompt_ids"])


@pytest.mark.parametrize("layout", LAYOUTS)
def test_layouts_are_one_model(layout, purekv_bin, checkpoints, tmp_path):
    case = parity_cases.CASES[LAYOUTS[layout]]
    reply, trace = ask(purekv_bin, checkpoints(layout, case.seed), case, tmp_path)
    check_trace(trace, golden(LAYOUTS[layout]), case)
    assert reply["finish_reason"] == "length"


@pytest.mark.parametrize("flags", [("--prefill-chunk", "1"), ("--prefill-chunk", "7"), ("--threads", "1")])
def test_schedule_changes_nothing(flags, purekv_bin, checkpoints, tmp_path):
    case = parity_cases.CASES["group7"]
    _, trace = ask(purekv_bin, checkpoints(case.recipe, case.seed), case, tmp_path, *flags)
    check_trace(trace, golden("group7"), case)
