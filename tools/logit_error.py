#!/usr/bin/env python3
"""Compares bf16 logits of the program with transformers' bf16, both against transformers in float32.

    python tools/logit_error.py --make --model /dev/shm/3b --program build/cuda-bare/bin/purekv

Random text prompts, each continued by the program's own tokens: the last prompt row and every decoded row are compared,
transformers reading the same tokens in one pass. --make first writes random weights of the 3B shape: deviations by
fan-in; queries and keys larger, so that softmax is peaked (logits of a deviation near 4); a head of its own with rows of
very different lengths, so that the best token leads by very different margins (a tied one answers with one token for
ever); one block of the vision tower.

Prints the relative error of both and their ratio, and in how many rows the top token is clear: the float32 margin is
above twice transformers' largest error in that row, so bf16 rounding does not explain another one. Exit 1 where a ratio
is above --most, a clear top token differs, or the clear rows have fewer than two tokens among them.
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


def make(folder, layers, hidden, device):
    """Writes the 3B shape's random weights in bf16; another `hidden` scales heads and MLP with it. Never over files."""
    if pathlib.Path(folder).exists() and any(pathlib.Path(folder).iterdir()):
        sys.exit(f"logit_error.py: {folder} holds files, and --make would write over them; name a new folder")
    text = {"hidden_size": hidden, "num_hidden_layers": layers, "intermediate_size": 11008 * hidden // 2048,
            "vocab_size": 151936, "num_attention_heads": hidden // 128, "num_key_value_heads": 2,
            "max_position_embeddings": 32768, "rms_norm_eps": 1e-6,
            "rope_parameters": {"rope_type": "default", "mrope_section": [16, 24, 24], "rope_theta": 1e6},
            "tie_word_embeddings": False}
    vision = {"depth": 1, "hidden_size": 1280, "num_heads": 16, "intermediate_size": 3420, "out_hidden_size": hidden,
              "fullatt_block_indexes": [0]}
    torch.manual_seed(11)
    torch.set_default_dtype(torch.bfloat16)
    with torch.device(device):
        model = Qwen2_5_VLForConditionalGeneration(Qwen2_5_VLConfig(text_config=text, vision_config=vision,
                                                                    tie_word_embeddings=False))
    torch.set_default_dtype(torch.float32)
    for name, weight in model.named_parameters():
        if weight.dim() < 2:
            offset = 1.0 if "norm" in name or "ln_q" in name else 0.0
            weight.data.normal_(offset, 0.1)
        else:
            peak = 2.0 if "q_proj" in name or "k_proj" in name else 1.0
            weight.data.normal_(0, peak / weight[0].numel() ** 0.5)
        if "lm_head" in name:
            weight.data.mul_((0.75 * torch.randn(len(weight), 1, device=device)).exp())
    model.save_pretrained(folder)


def reference(folder, prompts, answers, dtype, device):
    """Logits [prompts, answer, vocab] in float32 that each token of the answers was chosen from."""
    model = Qwen2_5_VLForConditionalGeneration.from_pretrained(folder, dtype=dtype, attn_implementation="sdpa")
    model = model.to(device).eval()
    rows = []
    with torch.no_grad():
        for prompt, answer in zip(prompts, answers):
            ids = torch.tensor([prompt + answer[:-1]], device=device)
            rows.append(model(input_ids=ids, logits_to_keep=len(answer)).logits[0].float().cpu().numpy())
    del model
    torch.cuda.empty_cache()
    return numpy.stack(rows)


def ours(program, folder, prompts, count, device):
    """Logits [prompts, count, vocab] of greedy answers, and the answers' ids."""
    rows, answers = [], []
    for prompt in prompts:
        with tempfile.TemporaryDirectory() as scratch:
            path = pathlib.Path(scratch)
            (path / "ids.json").write_text(json.dumps(prompt))
            command = [program, "ask", "--ids", str(path / "ids.json"), "--model", folder, "--device", device,
                       "--dtype", "bf16", "--method", "full", "--max-tokens", str(count), "--ignore-eos", "--temp", "0",
                       "--quiet", "--json", "--trace", str(path / "trace")]
            subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
            rows.append(numpy.load(path / "trace" / "logits.npy"))
            answers.append(numpy.load(path / "trace" / "output_ids.npy").tolist())
    return numpy.stack(rows), answers


def relative_error(logits, exact):
    return float(numpy.linalg.norm(logits - exact) / numpy.linalg.norm(exact))


def report(args, exact, theirs, mine):
    """Prints a line a prompt; 1 where the program fails, else 0."""
    best = numpy.partition(exact, -2, axis=-1)[..., -2:]
    yardstick = numpy.abs(theirs - exact).max(axis=-1)
    margin = (best[..., 1] - best[..., 0]) / yardstick
    clear = margin > 2
    same = mine.argmax(axis=-1) == exact.argmax(axis=-1)
    print("tokens   ours        transformers bf16   ratio   margin / error: median, most   rows  clear  same of them")
    ratios = []
    for i, count in enumerate(args.tokens):
        a, b = relative_error(mine[i], exact[i]), relative_error(theirs[i], exact[i])
        ratios.append(a / b)
        print(f"{count:6d}   {a:.3e}   {b:.3e}           {a / b:5.2f}   {numpy.median(margin[i]):14.2f} "
              f"{margin[i].max():13.2f}   {len(margin[i]):4d}  {clear[i].sum():5d}  {(clear & same)[i].sum():5d}")
    ratio = relative_error(mine, exact) / relative_error(theirs, exact)
    tokens = len(numpy.unique(exact.argmax(axis=-1)[clear]))
    print(f"all: ratio {ratio:.2f}, at most {args.most}; top token the same in {(clear & same).sum()} of {clear.sum()} "
          f"clear rows ({tokens} tokens), {same.sum()} of all {same.size}")
    if tokens < 2:
        print("fewer than two tokens were clear: the top token was hardly tested; ask for more with --tokens or --answer",
              file=sys.stderr)
    return int(max(ratios + [ratio]) > args.most or (clear & ~same).any() or tokens < 2)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True)
    parser.add_argument("--program", default="build/cuda/bin/purekv")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--tokens", type=int, nargs="+", default=[3, 9, 31, 200, 700, 1500])
    parser.add_argument("--make", action="store_true", help="write random weights into --model first")
    parser.add_argument("--layers", type=int, default=36)
    parser.add_argument("--hidden", type=int, default=2048, help="of the model made, in multiples of 256")
    parser.add_argument("--answer", type=int, default=16, help="tokens of each answer")
    parser.add_argument("--most", type=float, default=1.2)
    args = parser.parse_args()
    if args.make:
        make(args.model, args.layers, args.hidden, args.device)
    vocab = json.loads((pathlib.Path(args.model) / "config.json").read_text())
    vocab = vocab.get("vocab_size") or vocab["text_config"]["vocab_size"]
    random = numpy.random.default_rng(7)
    prompts = [random.integers(0, min(vocab, 100_000), n).tolist() for n in args.tokens]
    mine, answers = ours(args.program, args.model, prompts, args.answer, args.device)
    exact = reference(args.model, prompts, answers, torch.float32, args.device)
    theirs = reference(args.model, prompts, answers, torch.bfloat16, args.device)
    sys.exit(report(args, exact, theirs, mine))


if __name__ == "__main__":
    main()
