# SPDX-License-Identifier: Apache-2.0
"""Writes a model as a Qwen2.5-VL checkpoint folder: bf16 shards, index and the JSON files beside them."""

import json
import struct
from pathlib import Path

import torch

import model as M

SHARDS = 3


def _write_shard(path, tensors):
    """safetensors by hand: the GPU machine needs nothing but torch."""
    header, offset = {"__metadata__": {"format": "pt"}}, 0
    for name, t in tensors.items():
        size = t.numel() * 2
        header[name] = {"dtype": "BF16", "shape": list(t.shape), "data_offsets": [offset, offset + size]}
        offset += size
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with open(path, "wb") as f:
        f.write(struct.pack("<Q", len(text)) + text)
        for t in tensors.values():
            f.write(t.contiguous().view(torch.int16).numpy().tobytes())


def write_weights(state, out):
    """`state`: names -> tensors. Splits them into shards of about equal size."""
    out = Path(out)
    out.mkdir(parents=True, exist_ok=True)
    state = {k: v.detach().to("cpu", torch.bfloat16) for k, v in state.items()}
    total = sum(t.numel() for t in state.values())
    shards, filled = [{} for _ in range(SHARDS)], 0
    for name, t in state.items():
        shards[min(SHARDS - 1, filled * SHARDS // total)][name] = t
        filled += t.numel()
    names = [f"model-{i + 1:05d}-of-{SHARDS:05d}.safetensors" for i in range(SHARDS)]
    for name, shard in zip(names, shards):
        _write_shard(out / name, shard)
    index = {"metadata": {"total_size": 2 * total},
             "weight_map": {k: names[i] for i, shard in enumerate(shards) for k in shard}}
    (out / "model.safetensors.index.json").write_text(json.dumps(index, indent=2, sort_keys=True) + "\n")


def config_json(c, vocab):
    """The flat form of config.json that the published Qwen2.5-VL checkpoints use."""
    return {
        "architectures": ["Qwen2_5_VLForConditionalGeneration"], "model_type": "qwen2_5_vl",
        "attention_dropout": 0.0, "bos_token_id": vocab.pad, "eos_token_id": vocab.end, "pad_token_id": vocab.pad,
        "vision_start_token_id": vocab.vision_start, "vision_end_token_id": vocab.vision_end,
        "vision_token_id": vocab.video_pad - 2, "image_token_id": vocab.video_pad - 1,
        "video_token_id": vocab.video_pad,
        "hidden_act": "silu", "hidden_size": c.hidden, "initializer_range": 0.02, "intermediate_size": c.mlp,
        "max_position_embeddings": 4096, "max_window_layers": c.layers, "num_attention_heads": c.heads,
        "num_hidden_layers": c.layers, "num_key_value_heads": c.kv_heads, "rms_norm_eps": c.eps,
        "rope_theta": c.theta, "rope_scaling": {"type": "mrope", "mrope_section": list(c.sections)},
        "sliding_window": 4096, "use_sliding_window": False, "use_cache": True, "tie_word_embeddings": True,
        "torch_dtype": "bfloat16", "vocab_size": c.vocab,
        "vision_config": {
            "model_type": "qwen2_5_vl", "depth": c.vision_layers, "hidden_act": "silu",
            "hidden_size": c.vision_hidden, "intermediate_size": c.vision_mlp, "num_heads": c.vision_heads,
            "in_channels": 3, "in_chans": 3, "out_hidden_size": c.hidden, "patch_size": M.PATCH,
            "spatial_merge_size": M.MERGE, "spatial_patch_size": M.PATCH, "temporal_patch_size": M.TEMPORAL,
            "window_size": c.window, "fullatt_block_indexes": list(c.full_attention), "tokens_per_second": 2},
    }


def _processor(kind, low, high):
    """Limits keep 168x168 frames as they are: the model knows no other size."""
    return {"do_convert_rgb": True, "do_normalize": True, "do_rescale": True, "do_resize": True,
            "image_mean": list(M.MEAN), "image_std": list(M.STD), "rescale_factor": 1 / 255, "resample": 3,
            "min_pixels": low * 784, "max_pixels": high * 784,
            "size": {"shortest_edge": low * 784, "longest_edge": high * 784},
            "patch_size": M.PATCH, "temporal_patch_size": M.TEMPORAL, "merge_size": M.MERGE,
            "processor_class": "Qwen2_5_VLProcessor"} | kind


def write_configs(c, vocab, out):
    files = {
        "config.json": config_json(c, vocab),
        "generation_config.json": {"bos_token_id": vocab.pad, "pad_token_id": vocab.pad, "do_sample": False,
                                   "eos_token_id": [vocab.end, vocab.pad], "max_new_tokens": 32},
        "preprocessor_config.json": _processor({"image_processor_type": "Qwen2VLImageProcessor"}, 16, 36),
        "video_preprocessor_config.json": _processor(
            {"video_processor_type": "Qwen2VLVideoProcessor", "fps": 2.0, "min_frames": 4, "max_frames": 768,
             "do_sample_frames": False}, 16, 36),
    }
    for name, data in files.items():
        (Path(out) / name).write_text(json.dumps(data, indent=2) + "\n", encoding="utf-8")


def read_weights(folder):
    """Names -> bf16 tensors of a folder that write_weights made."""
    folder, state = Path(folder), {}
    names = json.loads((folder / "model.safetensors.index.json").read_text())["weight_map"].values()
    for name in sorted(set(names)):
        raw = (folder / name).read_bytes()
        size = struct.unpack("<Q", raw[:8])[0]
        header = json.loads(raw[8:8 + size])
        header.pop("__metadata__", None)
        for key, meta in header.items():
            low, high = (8 + size + o for o in meta["data_offsets"])
            state[key] = torch.frombuffer(bytearray(raw[low:high]), dtype=torch.bfloat16).view(meta["shape"])
    return state
