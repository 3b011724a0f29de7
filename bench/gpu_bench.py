#!/usr/bin/env python3
"""Races PureKV with PyTorch and transformers on one GPU, row by row (docs/benchmarks.md); scripts/gpu.sh calls it.

JSON is written after every row, so a run that is cut off keeps what it has. Without PyTorch or transformers ours runs
alone; a row that does not fit the budget is skipped by name.

    python3 bench/gpu_bench.py --program build/cuda-bare/bin/purekv --only attention,vision --budget-seconds 200
"""

import argparse
import datetime
import json
import os
import pathlib
import re
import sys
import time

import gpu_plot
import gpu_race
import gpu_report
import gpu_rows

ROOT = pathlib.Path(__file__).resolve().parent.parent
GROUPS = ("attention", "vision", "prefill", "decode")


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--program", default=ROOT / "build" / "cuda-bare" / "bin" / "purekv", type=pathlib.Path)
    parser.add_argument("--only", default=",".join(GROUPS), help=f"some of {','.join(GROUPS)}")
    parser.add_argument("--match", default="", help="only rows whose name has this regular expression")
    parser.add_argument("--budget-seconds", type=float, default=float("inf"), help="skip what does not fit any more")
    results = pathlib.Path(os.environ.get("OUT") or ROOT / "bench" / "results")
    parser.add_argument("--out", type=pathlib.Path, default=results)
    parser.add_argument("--no-peers", action="store_true", help="ours alone")
    parser.add_argument("--peers-only", action="store_true", help="peers alone, no program")
    # To try the code out where there is no GPU: shapes of a few thousand parameters.
    parser.add_argument("--device", default="cuda", help=argparse.SUPPRESS)
    parser.add_argument("--tiny", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    args.only = args.only.split(",")
    if unknown := set(args.only) - set(GROUPS):
        parser.error(f"--only {','.join(sorted(unknown))}: known are {','.join(GROUPS)}")
    if args.peers_only and args.no_peers:
        parser.error("--peers-only contradicts --no-peers")
    if not args.peers_only and not args.program.exists():
        parser.error(f"{args.program} is not built; run scripts/gpu.sh bench or name it by --program")
    return args


def make_peers(args, sizes):
    """Peers, or None with a line that says why."""
    if args.no_peers:
        return None
    try:
        from gpu_peers import Peers
    except ImportError as error:
        print(f"gpu_bench.py: no peers: {error}", file=sys.stderr)
        return None
    return Peers(sizes.shape, args.device)


class Session:
    """One run: its rows so far, its file, and the time that is left."""

    def __init__(self, lab: gpu_rows.Lab, budget_seconds: float, out: pathlib.Path, only):
        self.lab, self.budget, self.begin = lab, budget_seconds, time.perf_counter()
        self.result = {"card": gpu_race.card(), "commit": gpu_race.commit(), "date": _now(), "rows": [], "skipped": [],
                       "versions": lab.peers.versions() if lab.peers else None, "torch_ceiling": None}
        card = re.sub(r"[^a-z0-9]+", "_", self.result["card"]["name"].lower())
        part = "" if set(only) == set(GROUPS) else "_" + "_".join(only)
        self.path = out / f"gpu_{card}{part}.json"
        out.mkdir(parents=True, exist_ok=True)

    def left(self) -> float:
        return self.budget - (time.perf_counter() - self.begin)

    def run(self, row: gpu_rows.Row) -> None:
        """One row, if it fits; the file grows by it."""
        if self.left() < row.seconds:
            self.result["skipped"].append(f"{row.name}: {row.seconds} s planned, {self.left():.0f} s left")
            print(self.result["skipped"][-1], flush=True)
        else:
            record = {"row": row.name, "group": row.group, **gpu_race.attempt(row.run, self.lab),
                      "card_after": gpu_race.card()}
            self.result["rows"].append(record)
            for line in gpu_report.lines_of(record):
                print(" | ".join(line), f"[{record['seconds']} s]", flush=True)
        self.save()

    def save(self) -> None:
        """Whole or not at all: a reader never sees half a file."""
        part = self.path.with_suffix(".part")
        part.write_text(json.dumps(self.result, indent=1) + "\n", encoding="utf-8")
        part.replace(self.path)


def _now() -> str:
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")


def main() -> int:
    args = arguments()
    sizes = gpu_rows.TINY if args.tiny else gpu_rows.Sizes()
    peers = make_peers(args, sizes)
    program = None if args.peers_only else gpu_race.Program(str(args.program), args.device)
    session = Session(gpu_rows.Lab(program, peers, sizes), args.budget_seconds, args.out, args.only)
    if peers:
        session.result["torch_ceiling"] = peers.ceiling()
        session.result["card"] = peers.while_busy(gpu_race.card)  # the clock of an idle card says nothing
    for row in gpu_rows.rows(sizes):
        if row.group in args.only and re.search(args.match, row.name):
            session.run(row)
    if picture := gpu_plot.picture([session.result]):
        session.path.with_suffix(".svg").write_text(picture, encoding="utf-8")
    print(f"\n{gpu_report.table(session.result)}\n\n{session.path}")
    return 1 if any(record["errors"] for record in session.result["rows"]) else 0


if __name__ == "__main__":
    sys.exit(main())
