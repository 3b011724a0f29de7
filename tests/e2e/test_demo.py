"""The shipped demo model on the shipped clips: the same greedy ids as transformers, and honest cache figures."""

import json
import pathlib
import subprocess

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[2]
EXAMPLES = ROOT / "examples"
ORACLE = ROOT / "tests" / "golden" / "demo_oracle.json"
QUESTIONS = json.loads((EXAMPLES / "questions.json").read_text()) if (EXAMPLES / "questions.json").exists() else []


def ask(purekv_bin, item, *flags):
    command = [str(purekv_bin), "ask", str(EXAMPLES / item["clip"]), item["question"], "--json", "--quiet", *flags]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_there_are_six_examples():
    assert len(QUESTIONS) >= 6
    assert all(len(item["answer"].split()) >= 3 for item in QUESTIONS)


@pytest.mark.parametrize("item", QUESTIONS, ids=lambda item: item["clip"])
def test_full_cache_gives_the_oracles_ids(purekv_bin, item):
    """tests/golden/demo_oracle.json is written by `training/check_export.py --json` from transformers."""
    oracle = {(e["clip"], e["question"]): e["output_ids"] for e in json.loads(ORACLE.read_text())}
    result = ask(purekv_bin, item, "--method", "full")
    assert result["output_ids"] == oracle[(item["clip"], item["question"])]
    assert result["answer"].strip() == item["answer"].strip()
    assert result["kv"]["bytes_kept"] == result["kv"]["bytes_full"]


@pytest.mark.parametrize("item", QUESTIONS[:2], ids=lambda item: item["clip"])
def test_a_fifth_of_the_cache(purekv_bin, item):
    full = ask(purekv_bin, item, "--method", "full")
    fifth = ask(purekv_bin, item, "--budget", "20%")
    kv = fifth["kv"]
    assert kv["bytes_full"] == full["kv"]["bytes_full"]
    assert kv["bytes_kept"] <= 0.2 * kv["bytes_full"]
    one_layer = kv["bytes_full"] / len(kv["rows_kept"])
    assert kv["bytes_peak"] <= 0.2 * kv["bytes_full"] + one_layer
    assert fifth["output_ids"][0] == full["output_ids"][0]
