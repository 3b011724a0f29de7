#!/usr/bin/env python3
"""Pairs PureKV with transformers on the CPU, in one run: random weights of the Qwen2.5-0.5B shape.

Order A B B A for each pair, medians, ratio with spread. transformers runs in float32 and in bfloat16 and the faster one
counts: a probe over a short prompt drops the type that takes more than twice as long there (bfloat16 on machines
without instructions for it). Needs torch and transformers. JSON goes to bench/results/.

    python bench/compare_transformers.py --program build/release/bin/purekv --tokens 2048 --pairs 3
"""

import argparse
import json
import pathlib
import platform
import statistics
import subprocess
import time

import torch
from transformers import Qwen2Config, Qwen2ForCausalLM

TYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
SHAPE = {"hidden_size": 896, "intermediate_size": 4864, "num_hidden_layers": 24, "num_attention_heads": 14,
         "num_key_value_heads": 2, "vocab_size": 151936, "tie_word_embeddings": True, "rope_theta": 1e6}
DECODE_STEPS = 8
PROBE_TOKENS = 128


def peer(dtype: torch.dtype) -> Qwen2ForCausalLM:
    """The shape with random weights, as a user would load it: SDPA attention."""
    torch.manual_seed(0)
    return Qwen2ForCausalLM(Qwen2Config(**SHAPE, attn_implementation="sdpa")).to(dtype).eval()


@torch.inference_mode()
def run_peer(model: Qwen2ForCausalLM, tokens: int) -> tuple[float, float]:
    """Milliseconds of one prefill (last row's logits) and of one decode step at that context."""
    ids = torch.randint(0, SHAPE["vocab_size"], (1, tokens))
    begin = time.perf_counter()
    out = model(ids, use_cache=True, logits_to_keep=1)
    prefill = time.perf_counter() - begin
    cache, token = out.past_key_values, out.logits[:, -1].argmax(-1, keepdim=True)
    begin = time.perf_counter()
    for _ in range(DECODE_STEPS):
        out = model(token, past_key_values=cache, use_cache=True)
        token = out.logits[:, -1].argmax(-1, keepdim=True)
    return prefill * 1e3, (time.perf_counter() - begin) / DECODE_STEPS * 1e3


def probe_types() -> dict[str, float]:
    """Milliseconds of a short prefill and eight decode steps in each type."""
    taken = {}
    for name, dtype in TYPES.items():
        model = peer(dtype)
        run_peer(model, PROBE_TOKENS)
        prefill, decode = run_peer(model, PROBE_TOKENS)
        taken[name] = prefill + DECODE_STEPS * decode
    print("probe, ms:", {name: round(ms) for name, ms in taken.items()})
    return taken


def run_ours(program: str, what: str, tokens: int, threads: int) -> dict:
    command = [program, "bench", what, "--shape", "qwen2.5-0.5b", "--tokens", str(tokens), "--weights", "bf16",
               "--method", "full", "--threads", str(threads), "--json",
               "--repeat", "1" if what == "prefill" else str(DECODE_STEPS)]
    return json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


def summary(ours: list[float], theirs: dict[str, list[float]]) -> dict:
    """Median ratio of the faster peer to ours, with its spread over the pairs."""
    best = min(theirs, key=lambda name: statistics.median(theirs[name]))
    ratios = [b / a for a, b in zip(ours, theirs[best])]
    return {"ours_ms": statistics.median(ours), "faster_peer": best,
            "peers_ms": {name: statistics.median(times) for name, times in theirs.items()},
            "ratio": statistics.median(ratios), "ratio_min": min(ratios), "ratio_max": max(ratios)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--program", default="build/release/bin/purekv")
    parser.add_argument("--tokens", type=int, default=2048)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--pairs", type=int, default=3)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    ours = {"prefill": [], "decode": []}
    bandwidth, theirs = [], {"prefill": {}, "decode": {}}
    probe = probe_types()
    for name in [name for name in TYPES if probe[name] <= 2 * min(probe.values())]:
        model = peer(TYPES[name])
        run_peer(model, args.tokens)
        times = {"prefill": [], "decode": []}
        mine = {"prefill": [], "decode": []}

        def theirs_once() -> None:
            prefill, decode = run_peer(model, args.tokens)
            times["prefill"].append(prefill)
            times["decode"].append(decode)

        def ours_once() -> None:
            mine["prefill"].append(run_ours(args.program, "prefill", args.tokens, args.threads)["median_ms"])
            decode = run_ours(args.program, "decode", args.tokens, args.threads)
            mine["decode"].append(decode["median_ms"])
            bandwidth.append(decode["percent_of_ceiling"])

        for _ in range(args.pairs):
            for turn in (theirs_once, ours_once, ours_once, theirs_once):
                turn()
        for what in ours:
            ours[what].append(mine[what])
            theirs[what][name] = times[what]
        del model
    result = {"shape": "qwen2.5-0.5b", "tokens": args.tokens, "threads": args.threads, "device": platform.processor(),
              "commit": subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True,
                                       check=False).stdout.strip(),
              "probe_ms": probe, "decode_percent_of_read_bandwidth": statistics.median(bandwidth)}
    for what in ours:
        best = min(theirs[what], key=lambda name: statistics.median(theirs[what][name]))
        paired = ours[what][list(theirs[what]).index(best)]
        result[what] = summary(paired, theirs[what])
        row = result[what]
        print(f"{what:8} ours {row['ours_ms']:8.1f} ms  peers {row['peers_ms']}  "
              f"{row['ratio']:.2f}x the faster ({row['faster_peer']}), spread {row['ratio_min']:.2f}-{row['ratio_max']:.2f}")
    print(f"decode runs at {result['decode_percent_of_read_bandwidth']:.0f} % of the read bandwidth measured in turns")
    folder = pathlib.Path(__file__).parent / "results"
    folder.mkdir(exist_ok=True)
    (folder / f"compare_transformers_{args.tokens}.json").write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
