"""Damaged and unsupported checkpoints: exit code 3, one line on stderr, nothing on stdout, in bounded time."""

import json
import os
import shutil
import struct
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tools"))
import make_checkpoint  # noqa: E402

RECIPE = make_checkpoint.RECIPES["tied"]


@pytest.fixture(scope="module")
def sound(tmp_path_factory):
    """A checkpoint without a fault."""
    return make_checkpoint.write_checkpoint(tmp_path_factory.mktemp("sound"), RECIPE)


@pytest.fixture
def model(sound, tmp_path):
    """A copy of it to damage."""
    return Path(shutil.copytree(sound, tmp_path / "model"))


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    path = tmp_path_factory.mktemp("clip") / "clip.npy"
    np.save(path, np.zeros((2, 56, 56, 3), np.uint8))
    return str(path)


def ask(purekv_bin, model, *media):
    """A short run; 2 GiB of address space, so that a size taken from a file cannot grow unseen."""
    command = [purekv_bin, "ask", "--model", str(model), "--device", "cpu", "--max-tokens", "1", "--threads", "1",
               "--json", *media, "Why?"]
    shell = ["/bin/sh", "-c", 'ulimit -v 2097152; exec "$@"', "sh", *command]
    return subprocess.run(shell, capture_output=True, text=True, timeout=30)


def assert_refused(done, *words):
    assert done.returncode == 3, (done.returncode, done.stderr)
    assert done.stdout == ""
    assert done.stderr.startswith("purekv: error: ") and done.stderr.count("\n") == 1, done.stderr
    for word in words:
        assert word in done.stderr, done.stderr


def change_json(path, change):
    """Rewrites a JSON file through `change`, which alters the object in place."""
    value = json.loads(path.read_text(encoding="utf-8"))
    change(value)
    path.write_text(json.dumps(value), encoding="utf-8")


def put(pointer, value):
    """A change that sets the field at 'a/b/c'; a `value` of KeyError takes it away."""
    *parents, last = pointer.split("/")

    def change(root):
        for parent in parents:
            root = root[parent]
        if value is KeyError:
            del root[last]
        else:
            root[last] = value

    return change


def test_sound_model_answers(purekv_bin, sound, clip):
    done = ask(purekv_bin, sound, clip)
    assert done.returncode == 0, done.stderr


CONFIG = [
    ("hidden_size", KeyError), ("hidden_size", 60), ("hidden_size", 2**40), ("hidden_size", 64.5),
    ("num_hidden_layers", 10**9), ("num_hidden_layers", 0), ("num_hidden_layers", "3"), ("num_hidden_layers", 4),
    ("num_attention_heads", 5), ("num_key_value_heads", 3), ("num_key_value_heads", True),
    ("vocab_size", -1), ("vocab_size", 321), ("vocab_size", 2**63), ("intermediate_size", 161),
    ("model_type", "mystery"), ("model_type", None), ("model_type", "qwen2_vl"), ("hidden_act", "gelu"),
    ("use_sliding_window", True), ("quantization_config", {"quant_method": "awq"}), ("tie_word_embeddings", False),
    ("tie_word_embeddings", "yes"), ("rope_scaling/type", "yarn"), ("rope_scaling/mrope_section", [2, 3, 4]),
    ("rope_scaling", 3), ("rms_norm_eps", -1), ("rope_theta", 0), ("max_position_embeddings", 0),
    ("image_token_id", 99999), ("video_token_id", -1), ("text_config", []),
    ("vision_config/depth", 5), ("vision_config/depth", 10**9), ("vision_config/hidden_size", 72),
    ("vision_config/num_heads", 3), ("vision_config/intermediate_size", 93), ("vision_config/out_hidden_size", 65),
    ("vision_config/patch_size", 16), ("vision_config/spatial_merge_size", 0), ("vision_config/window_size", 57),
    ("vision_config/temporal_patch_size", 1), ("vision_config/in_chans", 4),
    ("vision_config/fullatt_block_indexes", [4]), ("vision_config/tokens_per_second", "2"),
]


@pytest.mark.parametrize(("pointer", "value"), CONFIG, ids=[f"{p}={v}"[:60] for p, v in CONFIG])
def test_config(pointer, value, purekv_bin, model, clip):
    change_json(model / "config.json", put(pointer, value))
    assert_refused(ask(purekv_bin, model, clip))


FILES = [
    ("generation_config.json", "eos_token_id", "x"), ("generation_config.json", "repetition_penalty", -1),
    ("generation_config.json", "temperature", "hot"), ("preprocessor_config.json", "patch_size", 0),
    ("preprocessor_config.json", "merge_size", 3), ("preprocessor_config.json", "image_std", [0, 1, 1]),
    ("preprocessor_config.json", "image_mean", [1]), ("preprocessor_config.json", "min_pixels", 2**50),
    ("video_preprocessor_config.json", "max_pixels", 1), ("video_preprocessor_config.json", "size", 3),
]


@pytest.mark.parametrize(("name", "field", "value"), FILES)
def test_side_files(name, field, value, purekv_bin, model, clip):
    change_json(model / name, put(field, value))
    assert_refused(ask(purekv_bin, model, clip), f"/{name}", field)


@pytest.mark.parametrize("name", ["generation_config.json", "preprocessor_config.json",
                                  "video_preprocessor_config.json"])
def test_side_files_may_be_absent(name, purekv_bin, model, clip):
    (model / name).unlink()
    assert ask(purekv_bin, model, clip).returncode == 0


BROKEN_TEXT = {"empty": b"", "cut": b'{"a": [1, 2', "list": b"[]", "binary": bytes(range(256)), "utf8": b'{"a": "\xff"}',
               "deep": b'{"a": ' + b"[" * 10000 + b"}", "huge number": b'{"a": 1e999}', "nan": b'{"a": NaN}',
               "twice": b'{"model_type": 1, "model_type": 1}'}


@pytest.mark.parametrize("name", ["config.json", "generation_config.json", "preprocessor_config.json",
                                  "tokenizer.json"])
@pytest.mark.parametrize("kind", BROKEN_TEXT)
def test_json_that_is_none(name, kind, purekv_bin, model, clip):
    (model / name).write_bytes(BROKEN_TEXT[kind])
    assert_refused(ask(purekv_bin, model, clip), name)


@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "tokenizer.json"])
@pytest.mark.parametrize("kind", ["absent", "directory", "fifo", "empty"])
def test_needed_files(name, kind, purekv_bin, model, clip):
    (model / name).unlink()
    if kind == "directory":
        (model / name).mkdir()
    elif kind == "fifo":
        os.mkfifo(model / name)
    elif kind == "empty":
        (model / name).touch()
    assert_refused(ask(purekv_bin, model, clip))


def test_model_that_is_no_directory(purekv_bin, model, tmp_path, clip):
    assert_refused(ask(purekv_bin, tmp_path / "absent", clip), "absent")
    assert_refused(ask(purekv_bin, model / "config.json", clip))


def change_header(path, change):
    """Rewrites the header of a safetensors file through `change`; the data stays."""
    raw = path.read_bytes()
    length = struct.unpack("<Q", raw[:8])[0]
    header = json.loads(raw[8:8 + length])
    change(header)
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + raw[8 + length:])


NORM = "model.norm.weight"
HEADER = {
    "missing": lambda h: h.pop(NORM), "dtype": lambda h: h[NORM].update(dtype="I64"),
    "shape": lambda h: h[NORM].update(shape=[8, 8]), "size": lambda h: h[NORM].update(shape=[63]),
    "wraps": lambda h: h[NORM].update(shape=[2**62 + 64]), "negative": lambda h: h[NORM].update(shape=[-64]),
    "fraction": lambda h: h[NORM].update(shape=[64.0]), "reversed": lambda h: h[NORM]["data_offsets"].reverse(),
    "beyond": lambda h: h[NORM].update(data_offsets=[2**40, 2**40 + 256]),
    "overlap": lambda h: h[NORM].update(data_offsets=[0, 256]), "extra": lambda h: h[NORM].update(more=1),
    "name": lambda h: h.update({"a\nb": h.pop(NORM)}), "equal names": lambda h: h.update(
        {"model.language_model.norm.weight": h[NORM]}),
}


@pytest.mark.parametrize("fault", HEADER)
def test_safetensors_header(fault, purekv_bin, model, clip):
    change_header(model / "model.safetensors", HEADER[fault])
    assert_refused(ask(purekv_bin, model, clip))


@pytest.mark.parametrize("length", [0, 1, 2**31, 2**63, 2**64 - 1, 2**64 - 8, 100_000_001])
def test_safetensors_header_length(length, purekv_bin, model, clip):
    path = model / "model.safetensors"
    path.write_bytes(struct.pack("<Q", length) + path.read_bytes()[8:])
    assert_refused(ask(purekv_bin, model, clip), "model.safetensors")


@pytest.mark.parametrize("keep", [7, 8, 9, 5000, 0.5, -1])
def test_truncated_weights(keep, purekv_bin, model, clip):
    path = model / "model.safetensors"
    size = path.stat().st_size
    os.truncate(path, keep if keep in (7, 8, 9, 5000) else size // 2 if keep == 0.5 else size - 1)
    assert_refused(ask(purekv_bin, model, clip), "model.safetensors")


def test_sparse_terabyte(purekv_bin, model, clip):
    os.truncate(model / "model.safetensors", 1 << 40)
    assert_refused(ask(purekv_bin, model, clip), "model.safetensors")


@pytest.fixture
def sharded(tmp_path):
    return make_checkpoint.write_checkpoint(tmp_path / "sharded", make_checkpoint.RECIPES["sharded"])


def test_linked_shard_answers(purekv_bin, sharded, tmp_path, clip):
    shard = sharded / "model-00002-of-00010.safetensors"
    shard.rename(tmp_path / "blob")
    shard.symlink_to(tmp_path / "blob")
    assert ask(purekv_bin, sharded, clip).returncode == 0


def test_missing_and_cut_shards(purekv_bin, sharded, clip):
    shard = sharded / "model-00002-of-00010.safetensors"
    os.truncate(shard, shard.stat().st_size - 4)
    assert_refused(ask(purekv_bin, sharded, clip), shard.name)
    shard.unlink()
    assert_refused(ask(purekv_bin, sharded, clip), shard.name)


def test_git_lfs_pointer(purekv_bin, sharded, clip):
    """What a clone without `git lfs pull` holds."""
    shard = sharded / "model-00002-of-00010.safetensors"
    shard.unlink()
    shard.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:" + "0" * 64 + "\nsize 4000000000\n")
    assert_refused(ask(purekv_bin, sharded, clip), shard.name, "Git LFS pointer", "`git lfs pull`")


@pytest.mark.parametrize("name", ["../x.safetensors", "/etc/passwd", "", "..", "sub/x.safetensors", 7, "absent"])
def test_shard_names(name, purekv_bin, sharded, clip):
    change_json(sharded / "model.safetensors.index.json", lambda index: index["weight_map"].update({NORM: name}))
    assert_refused(ask(purekv_bin, sharded, clip))


def test_index_lists_what_is_not_there(purekv_bin, sharded, clip):
    change_json(sharded / "model.safetensors.index.json",
                lambda index: index["weight_map"].update({"x": "model-00001-of-00010.safetensors"}))
    assert_refused(ask(purekv_bin, sharded, clip), "'x'")


def poison(model, tensor, value, count=None):
    """Overwrites a float32 tensor, or its first `count` values."""
    path = model / "model.safetensors"
    raw = bytearray(path.read_bytes())
    length = struct.unpack("<Q", raw[:8])[0]
    begin, end = json.loads(raw[8:8 + length])[tensor]["data_offsets"]
    count = count or (end - begin) // 4
    at = 8 + length + begin
    raw[at:at + 4 * count] = struct.pack("<f", value) * count
    path.write_bytes(raw)


PARTS = ["model.norm.weight", "model.layers.0.self_attn.q_proj.weight", "model.layers.1.self_attn.k_proj.bias",
         "model.layers.2.self_attn.v_proj.weight", "model.layers.2.input_layernorm.weight",
         "model.layers.1.mlp.down_proj.weight", "visual.blocks.0.attn.qkv.weight", "visual.merger.mlp.2.bias"]


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("tensor", PARTS)
def test_weights_that_are_not_finite(tensor, value, purekv_bin, model, clip):
    poison(model, tensor, value)
    assert_refused(ask(purekv_bin, model, clip), str(model))


@pytest.mark.parametrize("tensor", PARTS)
def test_one_weight_that_is_no_number(tensor, purekv_bin, model, clip):
    poison(model, tensor, float("nan"), 1)
    assert_refused(ask(purekv_bin, model, clip), "finite")


TOKENIZER = {
    "no model": lambda t: t.pop("model"), "vocab list": lambda t: t["model"].update(vocab=[]),
    "vocab empty": lambda t: t["model"].update(vocab={}), "merges": lambda t: t["model"].update(merges="x"),
    "merge of strangers": lambda t: t["model"]["merges"].append(["zz", "yy"]),
    "merge of one": lambda t: t["model"]["merges"].append(["a"]), "id string": lambda t: t["model"]["vocab"].update(a="1"),
    "id negative": lambda t: t["model"]["vocab"].update(a=-1), "id huge": lambda t: t["model"]["vocab"].update(a=2**40),
    "id fraction": lambda t: t["model"]["vocab"].update(a=1.5), "added id": lambda t: t["added_tokens"][0].update(id=2**33),
    "added list": lambda t: t.update(added_tokens={"a": 1}), "type": lambda t: t["model"].update(type="Unigram"),
    "vision token": lambda t: t["added_tokens"].clear(),
}


@pytest.mark.parametrize("fault", TOKENIZER)
def test_tokenizer(fault, purekv_bin, model, clip):
    change_json(model / "tokenizer.json", TOKENIZER[fault])
    assert_refused(ask(purekv_bin, model, clip), "tokenizer")
