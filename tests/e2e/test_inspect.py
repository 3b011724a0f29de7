"""`purekv inspect`: what it says of models and media, and that it says no to what `ask` refuses."""

import json
import re
import shutil
import subprocess
import sys

import numpy
import pytest

from helpers import PROGRAM, one_error_line, run

pytestmark = pytest.mark.usefixtures("purekv_bin")

FLOAT = 4


@pytest.fixture
def model(demo_model, tmp_path):
    """A copy of the demo model to change; the weights are links."""
    folder = tmp_path / "model"
    folder.mkdir()
    for path in demo_model.iterdir():
        if path.suffix == ".safetensors":
            (folder / path.name).symlink_to(path)
        else:
            shutil.copy(path, folder)
    return folder


@pytest.fixture(scope="module")
def long_clip(tmp_path_factory):
    """Frames that pass the demo model's context under LARGE."""
    path = tmp_path_factory.mktemp("clip") / "long.npy"
    numpy.save(path, numpy.zeros((8, 56, 56, 3), numpy.uint8))
    return path


LARGE = ["--min-pixels", "1000000", "--max-pixels", "2000000"]


def inspect(*args):
    return run(["inspect", "--device", "cpu", "--json", *args]).json()


def peak_rss(*args):
    """Peak resident bytes of a run that answers. A small process starts it: a child's peak begins with its parent's."""
    count = ("import resource, subprocess, sys; subprocess.run(sys.argv[1:], check=True, stdout=subprocess.DEVNULL); "
             "print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)")
    done = subprocess.run([sys.executable, "-c", count, str(PROGRAM), *map(str, args)], check=True, capture_output=True)
    return int(done.stdout) * 1024


def test_inspect(demo_model, small_clip):
    text = run(["inspect", small_clip, "--model", demo_model])
    assert text.code == 0 and re.search(r"frames +4\n", text.stdout) and "KV  20 %" in text.stdout
    assert "tokenizer" not in text.stdout and "too long" not in text.stdout
    out = inspect(small_clip, demo_model)
    medium, = out["media"]
    t, h, w = medium["grid_thw"]
    assert (medium["kind"], medium["frames"], medium["tokens"]) == ("frames", 4, t * h * w // 4)
    model, = out["models"]
    assert model["tokenizer"] and (model["device"], medium["device"]) == ("cpu", "cpu")
    assert medium["kv_bytes"]["100%"] == medium["tokens"] * model["kv_bytes_per_token"]
    assert medium["fits_context"] and medium["context"] == model["context"]


def test_prompt_tokens_are_asks_less_the_question(demo_model, small_clip):
    asked = run(["ask", "--model", demo_model, small_clip, "hi", "--max-tokens", "1", "--json", "--quiet"]).json()
    tokens = json.loads(run(["tokenize", "--model", demo_model], stdin='"hi"\n').stdout)
    medium, = inspect("--model", demo_model, small_clip)["media"]
    assert medium["prompt_tokens"] == asked["prompt"]["tokens"] - len(tokens)


@pytest.mark.parametrize("frames", [4, 16, 64])
def test_memory_holds_every_term_and_is_near_what_ask_takes(frames, demo_model, tmp_path):
    noise = numpy.random.default_rng(frames).integers(0, 256, (frames, 224, 224, 3), numpy.uint8)
    numpy.save(tmp_path / "a.npy", noise)
    out = inspect(demo_model, tmp_path / "a.npy")
    (model,), (medium,) = out["models"], out["media"]
    vision = json.loads((demo_model / "config.json").read_text())["vision_config"]
    _, h, w = medium["grid_thw"]
    hidden_rows = medium["prompt_tokens"] * model["hidden"] * FLOAT
    patch = 1176 + FLOAT * (1176 + 6 * vision["hidden_size"] + vision["intermediate_size"])
    one_layer = medium["prompt_tokens"] * model["kv_bytes_per_token"] // model["layers"]
    assert medium["memory_bytes"] >= model["weight_bytes"] + hidden_rows + h * w * patch
    assert medium["memory_bytes"] >= model["weight_bytes"] + hidden_rows + one_layer + medium["kv_bytes"]["20%"]
    # The program, its libraries and what each thread keeps are in the peak and not in the figure.
    if "linux" in sys.platform:
        peak = peak_rss("ask", "--model", demo_model, "--device", "cpu", "--threads", "1", tmp_path / "a.npy", "hi",
                        "--max-tokens", "2")
        assert peak / 2 < medium["memory_bytes"] < 1.2 * peak


def test_memory_grows_with_what_it_is_made_of(demo_model, tmp_path):
    """Wider frames ask more of the tower, more frames more of the prefill."""
    def memory(frames, *flags):
        numpy.save(tmp_path / "a.npy", numpy.zeros((frames, 224, 224, 3), numpy.uint8))
        return inspect("--model", demo_model, tmp_path / "a.npy", *flags)["media"][0]["memory_bytes"]
    assert memory(2) < memory(2, *LARGE)
    assert memory(64) < memory(512)


@pytest.mark.parametrize("content", ["", "{", "[]", "{}", '{"model": 3}', "\xff"])
def test_a_broken_tokenizer_is_asks_error(content, model, small_clip):
    (model / "tokenizer.json").write_text(content, encoding="latin-1")
    asked = one_error_line(run(["ask", "--model", model, "--device", "cpu", small_clip, "hi"]), 3)
    assert one_error_line(run(["inspect", "--device", "cpu", model]), 3) == asked
    assert one_error_line(run(["inspect", "--device", "cpu", "--model", model, small_clip]), 3) == asked


def test_a_missing_tokenizer_is_said(model, small_clip):
    (model / "tokenizer.json").unlink()
    for arguments in ([model], [model, small_clip], ["--model", model, small_clip]):
        text = run(["inspect", "--device", "cpu", *arguments])
        assert (text.code, text.stderr) == (0, "")
        line, = [line for line in text.stdout.splitlines() if "tokenizer.json" in line]
        assert "--ids" in line
    out = inspect(model, small_clip)
    assert not out["models"][0]["tokenizer"] and out["media"][0]["prompt_tokens"] == out["media"][0]["tokens"]


def test_a_prompt_past_the_context(demo_model, long_clip):
    flags = ["--device", "cpu", "--model", demo_model, *LARGE]
    refused = one_error_line(run(["ask", *flags, long_clip, "hi"]), 3)
    line, = re.findall(r"(?m)^.*too long.*$", run(["inspect", *flags, long_clip]).stdout)
    medium, = inspect("--model", demo_model, *LARGE, long_clip)["media"]
    assert not medium["fits_context"] and medium["prompt_tokens"] > medium["context"]
    for said in (str(medium["prompt_tokens"]), str(medium["context"]), "--fps", "--frames", "--max-pixels"):
        assert said in line
    assert str(medium["context"]) in refused


def test_media_for_a_model_without_a_tower(model, small_clip):
    """Text checkpoints hold no vision tower: as `ask` says it."""
    config = json.loads((model / "config.json").read_text())
    del config["vision_config"]
    (model / "config.json").write_text(json.dumps(config))
    asked = run(["ask", "--model", model, "--device", "cpu", small_clip, "hi"])
    looked = run(["inspect", "--model", model, "--device", "cpu", small_clip])
    assert (looked.code, looked.stderr, looked.stdout) == (asked.code, asked.stderr, "")
