#!/usr/bin/env python3
"""Compares bf16 logits of the program with transformers' bf16, both against transformers in float32.

    python tools/logit_error.py --make --model /dev/shm/3b --program build/cuda-bare/bin/purekv

Random text prompts. --make first writes random weights of the 3B shape: deviations by fan-in, queries and keys larger,
so that softmax is peaked (logits of a deviation near 4), and one block of the vision tower. Prints the
relative error of the last row's logits for both, their ratio, and how often the top token agrees where the float32
margin is above our error. Exit 1 where the ratio is above --most or a clear top token differs.
"""

import argparse
import json
import pathlib
import subprocess
import sys
import tempfile

import numpy
import torch
from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration


def make(folder, layers, device):
    """Writes the 3B shape's random weights in bf16."""
    text = {"hidden_size": 2048, "num_hidden_layers": layers, "intermediate_size": 11008, "vocab_size": 151936,
            "num_attention_heads": 16, "num_key_value_heads": 2, "max_position_embeddings": 32768, "rms_norm_eps": 1e-6,
            "rope_parameters": {"rope_type": "default", "mrope_section": [16, 24, 24], "rope_theta": 1e6},
            "tie_word_embeddings": True}
    vision = {"depth": 1, "hidden_size": 1280, "num_heads": 16, "intermediate_size": 3420, "out_hidden_size": 2048,
              "fullatt_block_indexes": [0]}
    torch.manual_seed(11)
    torch.set_default_dtype(torch.bfloat16)
    with torch.device(device):
        model = Qwen2_5_VLForConditionalGeneration(Qwen2_5_VLConfig(text_config=text, vision_config=vision,
                                                                    tie_word_embeddings=True))
    torch.set_default_dtype(torch.float32)
    for name, weight in model.named_parameters():
        if weight.dim() < 2:
            offset = 1.0 if "norm" in name or "ln_q" in name else 0.0
            weight.data.normal_(offset, 0.1)
        else:
            peak = 2.0 if "q_proj" in name or "k_proj" in name else 1.0
            weight.data.normal_(0, peak / weight[0].numel() ** 0.5)
    model.save_pretrained(folder)


def reference(folder, ids, dtype, device):
    """Logits [tokens, vocab] in float32 of the given prompts' last rows."""
    model = Qwen2_5_VLForConditionalGeneration.from_pretrained(folder, dtype=dtype, attn_implementation="sdpa")
    model = model.to(device).eval()
    rows = []
    with torch.no_grad():
        for prompt in ids:
            out = model(input_ids=torch.tensor([prompt], device=device), logits_to_keep=1)
            rows.append(out.logits[0, -1].float().cpu().numpy())
    del model
    torch.cuda.empty_cache()
    return numpy.stack(rows)


def ours(program, folder, ids, device):
    rows = []
    for prompt in ids:
        with tempfile.TemporaryDirectory() as scratch:
            path = pathlib.Path(scratch)
            (path / "ids.json").write_text(json.dumps(prompt))
            command = [program, "ask", "--ids", str(path / "ids.json"), "--model", folder, "--device", device, "--dtype", "bf16",
                       "--method", "full", "--max-tokens", "1", "--temp", "0", "--quiet", "--json", "--trace", str(path / "trace")]
            subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
            rows.append(numpy.load(path / "trace" / "logits.npy")[0])
    return numpy.stack(rows)


def relative_error(logits, exact):
    return float(numpy.linalg.norm(logits - exact) / numpy.linalg.norm(exact))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True)
    parser.add_argument("--program", default="build/cuda/bin/purekv")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--tokens", type=int, nargs="+", default=[31, 200, 700, 1500])
    parser.add_argument("--make", action="store_true", help="write random weights into --model first")
    parser.add_argument("--layers", type=int, default=36)
    parser.add_argument("--most", type=float, default=1.2)
    args = parser.parse_args()
    if args.make:
        make(args.model, args.layers, args.device)
    vocab = json.loads((pathlib.Path(args.model) / "config.json").read_text())
    vocab = vocab.get("vocab_size") or vocab["text_config"]["vocab_size"]
    random = numpy.random.default_rng(7)
    ids = [random.integers(0, min(vocab, 100_000), n).tolist() for n in args.tokens]
    exact = reference(args.model, ids, torch.float32, args.device)
    theirs = reference(args.model, ids, torch.bfloat16, args.device)
    mine = ours(args.program, args.model, ids, args.device)
    failures = 0
    print("tokens   ours        transformers bf16   ratio   margin / our largest error   top token")
    for i, count in enumerate(args.tokens):
        a, b = relative_error(mine[i], exact[i]), relative_error(theirs[i], exact[i])
        order = numpy.sort(exact[i])
        margin, worst = order[-1] - order[-2], numpy.abs(mine[i] - exact[i]).max()
        same = mine[i].argmax() == exact[i].argmax()
        failures += a > args.most * b or (margin > 2 * worst and not same)
        print(f"{count:6d}   {a:.3e}   {b:.3e}           {a / b:5.2f}   {margin / worst:8.2f}                     {'same' if same else 'other'}")
    ratio = relative_error(mine, exact) / relative_error(theirs, exact)
    print(f"all: ratio {ratio:.2f}, at most {args.most}")
    sys.exit(1 if failures or ratio > args.most else 0)


if __name__ == "__main__":
    main()
