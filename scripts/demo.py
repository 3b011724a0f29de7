#!/usr/bin/env python3
"""demo.py PROGRAM EXAMPLES: every example question at 100 % and at 20 % of the cache, side by side."""

import json
import pathlib
import subprocess
import sys


def ask(program: str, clip: pathlib.Path, question: str, budget: str) -> dict:
    """Runs one question and returns its JSON; ends the demo with the program's own error."""
    command = [program, "ask", str(clip), question, "--budget", budget, "--json", "--quiet"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        sys.exit(done.stderr.strip() or f"{' '.join(command)} ended with {done.returncode}")
    return json.loads(done.stdout)


def describe(budget: str, result: dict) -> str:
    kv, time = result["kv"], result["time_ms"]
    return (f"  {budget:>4}  {result['answer']:<60.60}  {kv['bytes_kept'] / 2**20:7.2f} MiB KV"
            f"  {time['first_token']:7.0f} ms to the first token  {time['per_token']:6.1f} ms a token")


def main() -> None:
    program, folder = sys.argv[1], pathlib.Path(sys.argv[2])
    right = {"100%": 0, "20%": 0}
    questions = json.loads((folder / "questions.json").read_text())
    for item in questions:
        print(f"\n{item['clip']}: {item['question']}\n  true  {item['answer']}")
        for budget in right:
            result = ask(program, folder / item["clip"], item["question"], budget)
            right[budget] += result["answer"].strip() == item["answer"].strip()
            print(describe(budget, result), flush=True)
    print(f"\nright with the whole cache: {right['100%']} of {len(questions)}; "
          f"with a fifth of it: {right['20%']} of {len(questions)}")
    print("The demo model knows only synthetic scenes (docs/demo-model.md). Your own clip and checkpoint:\n"
          f"  {program} ask CLIP.mp4 \"What happens?\" --model DIR")


if __name__ == "__main__":
    main()
