"""Writes Qwen2.5-VL checkpoints of random weights: small ones for tests, big ones for memory figures.

    python tools/make_checkpoint.py --recipe group7 --seed 1 --out DIR

A tensor's values depend on the seed and its name alone, never on file layout, so every layout of one
shape is the same model. Only raw Philox words and exact integer arithmetic are used: the files are
bit-identical on every machine and numpy version.
"""

import argparse
import dataclasses
import json
import math
import struct
import zlib
from pathlib import Path

import numpy as np

CHUNK = 1 << 22  # elements made at a time: bounds memory, whatever the model
SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|vision_start|>", "<|vision_end|>",
           "<|vision_pad|>", "<|image_pad|>", "<|video_pad|>"]
WORDS = ["system", "user", "assistant", "You", " are", " a", " helpful", " assistant"]
PRETOKENIZER = (r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*"
                r"|\s*[\r\n]+|\s+(?!\S)|\s+")


@dataclasses.dataclass(frozen=True)
class Recipe:
    """Sizes of a model and the layout of its files."""
    hidden: int = 64
    layers: int = 3
    heads: int = 4
    kv_heads: int = 2
    ffn: int = 160
    vocab: int = 320
    mrope: tuple = (2, 3, 3)
    theta: float = 1e6
    tied: bool = True
    vision_depth: int = 4
    vision_hidden: int = 64
    vision_heads: int = 4
    vision_ffn: int = 92  # a multiple of 4 and not of 8, as 3420 is
    window: int = 56
    full: tuple = (1, 3)
    dtype: str = "F32"
    prefix: str = "legacy"  # legacy | model | language_model
    nested: bool = False  # text_config, as transformers writes since 4.52
    shard_bytes: int = 0  # 0: one file
    scaled: bool = True  # deviation by fan-in, random norms; False: one magnitude, fast, for big models


TINY = Recipe()
BIG_VISION = {"vision_depth": 32, "vision_hidden": 1280, "vision_heads": 16, "vision_ffn": 3420, "window": 112,
              "full": (7, 15, 23, 31)}
BIG = {"dtype": "BF16", "vocab": 151936, "scaled": False, "shard_bytes": 2 << 30}
RECIPES = {
    "tied": TINY,
    "untied": dataclasses.replace(TINY, tied=False),
    "bf16": dataclasses.replace(TINY, tied=False, dtype="BF16"),
    "f16": dataclasses.replace(TINY, dtype="F16"),
    "sharded": dataclasses.replace(TINY, shard_bytes=200_000),
    "prefix-model": dataclasses.replace(TINY, prefix="model", nested=True),
    "prefix-language": dataclasses.replace(TINY, tied=False, prefix="language_model"),
    "nested": dataclasses.replace(TINY, nested=True),
    "window4": dataclasses.replace(TINY, window=112),
    "group3": dataclasses.replace(TINY, hidden=384, layers=2, heads=6, ffn=256, mrope=(8, 12, 12), tied=False),
    "group7": dataclasses.replace(TINY, hidden=896, layers=2, heads=7, kv_heads=1, ffn=320, mrope=(16, 24, 24), tied=False),
    # The text part of Qwen2.5-0.5B, under 8 blocks of the family's tower.
    "0.5b": Recipe(hidden=896, layers=24, heads=14, kv_heads=2, ffn=4864, mrope=(8, 12, 12),
                   **{**BIG_VISION, "vision_depth": 8, "full": (3, 7)}, **BIG),
    "3b": Recipe(hidden=2048, layers=36, heads=16, kv_heads=2, ffn=11008, mrope=(16, 24, 24), **BIG_VISION, **BIG),
}


def byte_alphabet():
    """GPT-2's character for each of the 256 bytes."""
    shown = [*range(33, 127), *range(161, 173), *range(174, 256)]
    hidden = [b for b in range(256) if b not in shown]
    return {**{b: chr(b) for b in shown}, **{b: chr(256 + i) for i, b in enumerate(hidden)}}


def tokenizer():
    """tokenizer.json: 256 bytes, a few words built up by merges, the special tokens."""
    alphabet = byte_alphabet()
    vocab = {alphabet[b]: b for b in range(256)}
    merges = []
    for word in WORDS:
        letters = [alphabet[b] for b in word.encode()]
        for i in range(1, len(letters)):
            pair = ("".join(letters[:i]), letters[i])
            if "".join(pair) not in vocab:
                vocab["".join(pair)] = len(vocab)
                merges.append(list(pair))
    added = [{"id": len(vocab) + i, "content": content, "single_word": False, "lstrip": False, "rstrip": False,
              "normalized": False, "special": True} for i, content in enumerate(SPECIAL)]
    level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": False, "use_regex": False}
    split = {"type": "Split", "pattern": {"Regex": PRETOKENIZER}, "behavior": "Isolated", "invert": False}
    return {"version": "1.0", "truncation": None, "padding": None, "added_tokens": added,
            "normalizer": {"type": "NFC"},
            "pre_tokenizer": {"type": "Sequence", "pretokenizers": [split, level]},
            "post_processor": level, "decoder": level,
            "model": {"type": "BPE", "dropout": None, "unk_token": None, "continuing_subword_prefix": "",
                      "end_of_word_suffix": "", "fuse_unk": False, "byte_fallback": False, "ignore_merges": False,
                      "vocab": vocab, "merges": merges}}


def special_ids():
    """Content to id of the special tokens."""
    return {token["content"]: token["id"] for token in tokenizer()["added_tokens"]}


def config(recipe):
    """config.json as a dict, flat or nested."""
    ids = special_ids()
    rope = {"type": "mrope", "mrope_section": list(recipe.mrope)}
    text = {"hidden_size": recipe.hidden, "num_hidden_layers": recipe.layers, "intermediate_size": recipe.ffn,
            "vocab_size": recipe.vocab, "num_attention_heads": recipe.heads,
            "num_key_value_heads": recipe.kv_heads, "hidden_act": "silu", "max_position_embeddings": 32768,
            "rms_norm_eps": 1e-6, "rope_theta": recipe.theta, "rope_scaling": rope, "use_sliding_window": False,
            "sliding_window": 32768, "max_window_layers": recipe.layers, "attention_dropout": 0.0,
            "bos_token_id": ids["<|endoftext|>"], "eos_token_id": ids["<|im_end|>"]}
    vision = {"depth": recipe.vision_depth, "hidden_size": recipe.vision_hidden, "num_heads": recipe.vision_heads,
              "intermediate_size": recipe.vision_ffn, "out_hidden_size": recipe.hidden, "hidden_act": "silu",
              "patch_size": 14, "spatial_patch_size": 14, "spatial_merge_size": 2, "temporal_patch_size": 2,
              "in_chans": 3, "in_channels": 3, "window_size": recipe.window,
              "fullatt_block_indexes": list(recipe.full), "tokens_per_second": 2}
    top = {"architectures": ["Qwen2_5_VLForConditionalGeneration"], "model_type": "qwen2_5_vl",
           "vision_start_token_id": ids["<|vision_start|>"], "vision_end_token_id": ids["<|vision_end|>"],
           "image_token_id": ids["<|image_pad|>"], "video_token_id": ids["<|video_pad|>"],
           "tie_word_embeddings": recipe.tied, "vision_config": vision}
    if not recipe.nested:
        return {**top, **text}
    del text["rope_scaling"], text["rope_theta"]
    text["rope_parameters"] = {"rope_type": "default", "mrope_section": list(recipe.mrope),
                               "rope_theta": recipe.theta}
    return {**top, "text_config": {"model_type": "qwen2_5_vl_text", **text}}


def tensors(recipe):
    """(canonical name, shape) of every tensor, in the order of the files."""
    hidden, kv = recipe.hidden, recipe.hidden // recipe.heads * recipe.kv_heads
    yield "model.embed_tokens.weight", (recipe.vocab, hidden)
    for i in range(recipe.layers):
        layer = f"model.layers.{i}."
        yield layer + "input_layernorm.weight", (hidden,)
        yield layer + "post_attention_layernorm.weight", (hidden,)
        for name, out in (("q", hidden), ("k", kv), ("v", kv)):
            yield f"{layer}self_attn.{name}_proj.weight", (out, hidden)
            yield f"{layer}self_attn.{name}_proj.bias", (out,)
        yield layer + "self_attn.o_proj.weight", (hidden, hidden)
        yield layer + "mlp.gate_proj.weight", (recipe.ffn, hidden)
        yield layer + "mlp.up_proj.weight", (recipe.ffn, hidden)
        yield layer + "mlp.down_proj.weight", (hidden, recipe.ffn)
    yield "model.norm.weight", (hidden,)
    if not recipe.tied:
        yield "lm_head.weight", (recipe.vocab, hidden)
    yield from vision_tensors(recipe)


def vision_tensors(recipe):
    """(canonical name, shape) of the tower."""
    width, merged = recipe.vision_hidden, 4 * recipe.vision_hidden
    yield "visual.patch_embed.proj.weight", (width, 3, 2, 14, 14)
    for i in range(recipe.vision_depth):
        block = f"visual.blocks.{i}."
        yield block + "norm1.weight", (width,)
        yield block + "norm2.weight", (width,)
        for name, out, inner in (("attn.qkv", 3 * width, width), ("attn.proj", width, width),
                                 ("mlp.gate_proj", recipe.vision_ffn, width),
                                 ("mlp.up_proj", recipe.vision_ffn, width),
                                 ("mlp.down_proj", width, recipe.vision_ffn)):
            yield f"{block}{name}.weight", (out, inner)
            yield f"{block}{name}.bias", (out,)
    yield "visual.merger.ln_q.weight", (width,)
    for name, out in (("0", merged), ("2", recipe.hidden)):
        yield f"visual.merger.mlp.{name}.weight", (out, merged)
        yield f"visual.merger.mlp.{name}.bias", (out,)


def stored_name(name, prefix):
    """The name that a layout gives to a canonical name."""
    if prefix == "model":
        return name.replace("model.", "model.language_model.", 1) if name.startswith("model.") else \
            "model." + name if name.startswith("visual.") else name
    if prefix == "language_model" and not name.startswith("visual."):
        return "language_model." + name
    return name


def to_bits(values, dtype):
    """float32 values as they are stored; bfloat16 rounds to nearest, ties to even."""
    if dtype == "F32":
        return values
    if dtype == "F16":
        return values.astype(np.float16)
    bits = values.view(np.uint32)
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(np.uint16)


def chunks(recipe, seed, name, shape):
    """The tensor's values, at most CHUNK at a time, as stored."""
    source = np.random.Philox(key=[seed, zlib.crc32(name.encode())])
    fan_in = math.prod(shape[1:]) if len(shape) > 1 else 1
    left = math.prod(shape)
    while left > 0:
        count = min(left, CHUNK)
        left -= count
        if not recipe.scaled and len(shape) > 1:
            # Random sign and mantissa under one exponent: +-[1/64, 1/32), without arithmetic.
            words = source.random_raw((count + 3) // 4).view(np.uint16)[:count]
            yield (words & np.uint16(0x807F)) | np.uint16(0x3C80)
            continue
        # The sum of four uniform 16-bit integers is close to normal, and exact.
        total = source.random_raw(count).view(np.uint16).reshape(-1, 4).sum(axis=1, dtype=np.int64)
        normal = (total - 2 * 65535).astype(np.float32) * np.float32(math.sqrt(3) / 65536)
        yield to_bits(scale(normal, name, fan_in, recipe.scaled), recipe.dtype)


def scale(normal, name, fan_in, scaled):
    """A unit normal made into the values that a tensor of that name has."""
    if "norm" in name or "ln_q" in name:
        return 1 + np.clip(normal * np.float32(0.25 if scaled else 0.05), -0.5, 0.5).astype(np.float32)
    if fan_in == 1:
        return normal * np.float32(0.1 if scaled else 0.01)
    if "embed_tokens" in name:
        return normal * np.float32(0.1)  # small beside the layers' part, or a tied model repeats its input
    # Queries and keys large enough that attention picks rows: with a flat one the answers are loops.
    gain = 2.0 if "q_proj" in name or "k_proj" in name else 0.8
    return normal * np.float32(gain / math.sqrt(fan_in))


def write_shard(path, recipe, seed, group):
    """One safetensors file, its tensors one chunk at a time."""
    header, end = {"__metadata__": {"format": "pt"}}, 0
    for name, shape in group:
        begin, end = end, end + math.prod(shape) * element_bytes(recipe)
        header[stored_name(name, recipe.prefix)] = {"dtype": recipe.dtype, "shape": list(shape),
                                                    "data_offsets": [begin, end]}
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with open(path, "wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for name, shape in group:
            for chunk in chunks(recipe, seed, name, shape):
                file.write(chunk.tobytes())


def element_bytes(recipe):
    return 4 if recipe.dtype == "F32" else 2


def grouped(recipe):
    """The tensors cut into shards of about recipe.shard_bytes."""
    groups, size = [[]], 0
    for name, shape in tensors(recipe):
        nbytes = math.prod(shape) * element_bytes(recipe)
        if recipe.shard_bytes and groups[-1] and size + nbytes > recipe.shard_bytes:
            groups.append([])
            size = 0
        groups[-1].append((name, shape))
        size += nbytes
    return groups


def write_weights(out, recipe, seed):
    """model.safetensors, or shards and their index."""
    groups = grouped(recipe)
    if len(groups) == 1:
        write_shard(out / "model.safetensors", recipe, seed, groups[0])
        return
    weight_map = {}
    for i, group in enumerate(groups):
        shard = f"model-{i + 1:05d}-of-{len(groups):05d}.safetensors"
        write_shard(out / shard, recipe, seed, group)
        weight_map |= {stored_name(name, recipe.prefix): shard for name, _ in group}
    total = sum(math.prod(shape) for _, shape in tensors(recipe)) * element_bytes(recipe)
    write_json(out / "model.safetensors.index.json", {"metadata": {"total_size": total}, "weight_map": weight_map})


def write_json(path, value):
    path.write_text(json.dumps(value, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def write_checkpoint(out, recipe, seed=0):
    """A complete model directory. Returns it as a Path."""
    out = Path(out)
    out.mkdir(parents=True, exist_ok=True)
    ids = special_ids()
    write_json(out / "config.json", config(recipe))
    write_json(out / "tokenizer.json", tokenizer())
    write_json(out / "generation_config.json",
               {"eos_token_id": [ids["<|im_end|>"], ids["<|endoftext|>"]], "pad_token_id": ids["<|endoftext|>"],
                "do_sample": False, "repetition_penalty": 1.0})
    # Limits so wide that frames whose sides are multiples of 28 are taken as they are.
    pixels = {"min_pixels": 784, "max_pixels": 12845056, "patch_size": 14, "merge_size": 2, "temporal_patch_size": 2,
              "image_mean": [0.48145466, 0.4578275, 0.40821073], "image_std": [0.26862954, 0.26130258, 0.27577711]}
    write_json(out / "preprocessor_config.json", {**pixels, "image_processor_type": "Qwen2VLImageProcessor"})
    write_json(out / "video_preprocessor_config.json", {**pixels, "video_processor_type": "Qwen2VLVideoProcessor"})
    write_weights(out, recipe, seed)
    return out


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recipe", choices=RECIPES, required=True)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    write_checkpoint(args.out, RECIPES[args.recipe], args.seed)


if __name__ == "__main__":
    main()
