"""`ask --ids`: a prompt of token ids in place of a question."""

import json

import numpy
import pytest

from helpers import load_trace, one_error_line, run

pytestmark = pytest.mark.usefixtures("purekv_bin")


def ask(demo_model, *args):
    return run(["ask", "--model", demo_model, "--device", "cpu", "--json", "--quiet", "--temp", "0", "--max-tokens", "6", *args])


def collapsed(ids, pad):
    """One pad id for a medium's run of them."""
    return [x for i, x in enumerate(ids) if x != pad or i == 0 or ids[i - 1] != pad]


def test_ids_of_a_question_give_its_answer(demo_model, small_clip, tmp_path):
    asked = ask(demo_model, "--trace", tmp_path / "text", small_clip, "What happens?").json()
    config = json.loads((demo_model / "config.json").read_text())
    prompt = load_trace(tmp_path / "text")["prompt_ids"].tolist()
    (tmp_path / "ids.json").write_text(json.dumps(collapsed(prompt, config["video_token_id"])))
    given = ask(demo_model, "--ids", tmp_path / "ids.json", "--trace", tmp_path / "ids", small_clip).json()
    assert given["output_ids"] == asked["output_ids"] and given["prompt"]["tokens"] == asked["prompt"]["tokens"]
    assert numpy.array_equal(load_trace(tmp_path / "ids")["logits"], load_trace(tmp_path / "text")["logits"])


@pytest.mark.parametrize("content", ["", "{}", "[]", "[1, \"a\"]", "[1.5", "[99999999]", "[-1]", "[1.5]", "[true]",
                                     "[4294967297]"])
def test_bad_ids_are_input_errors(demo_model, tmp_path, content):
    (tmp_path / "ids.json").write_text(content)
    one_error_line(ask(demo_model, "--ids", tmp_path / "ids.json"), 3)


def test_an_id_past_the_vocabulary_blames_the_file(demo_model, tmp_path):
    rows = json.loads((demo_model / "config.json").read_text())["vocab_size"]
    (tmp_path / "ids.json").write_text(f"[1, {rows}]")
    message = one_error_line(ask(demo_model, "--ids", tmp_path / "ids.json"), 3)
    assert f"ids.json holds id {rows}" in message and f"{rows} rows" in message and f"0 to {rows - 1}" in message
    assert "tokenizer.json" not in message


def test_a_system_message_contradicts_ids(demo_model, tmp_path):
    (tmp_path / "ids.json").write_text("[1]")
    one_error_line(ask(demo_model, "--ids", tmp_path / "ids.json", "--system", "x"), 2)


def test_missing_file_is_named(demo_model, tmp_path):
    assert "no-such.json" in one_error_line(ask(demo_model, "--ids", tmp_path / "no-such.json"), 3)


def test_fp8_needs_a_gpu(demo_model):
    message = one_error_line(ask(demo_model, "--weights", "fp8", "hi"), 4)
    assert "fp8" in message and "--weights bf16" in message
