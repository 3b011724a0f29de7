#!/usr/bin/env python3
"""The table of a GPU benchmark, from its JSON.

    python3 bench/gpu_report.py bench/results/gpu_nvidia_h200.json
"""

import argparse
import json
import pathlib

from gpu_race import ratio

HEAD = ("what", "ours", "ms", "TFLOP/s", "% GEMM", "% copy", "peers: ms, and times ours", "bar (H200)")


def number(value: float) -> str:
    """Three digits at least."""
    return f"{value:.0f}" if abs(value) >= 1000 else f"{value:.1f}" if abs(value) >= 10 else f"{value:.3g}"


def verdict(one: dict) -> str:
    """A check with its bar."""
    text = f"{number(one['median'])} {one['unit']}"
    if "min" in one:
        text += f" ({number(one['min'])} to {number(one['max'])})"
    if one["bar"] is None:
        return text
    return f"{text}, {'>=' if one['at_least'] else '<='} {one['bar']:g}: {'met' if one['met'] else 'MISSED'}"


def _peer_cells(record: dict, ours: str | None) -> str:
    cells = []
    for name, one in record["contestants"].items():
        if one["kind"] != "peer":
            continue
        cell = f"{name} {number(one['median_ms'])}"
        if "tflops" in one:
            cell += f" ({number(one['tflops'])} TFLOP/s)"
        if ours and (times := ratio(record, name, ours)):
            cell += f", {times['median']:.2f}x ({times['min']:.2f} to {times['max']:.2f})"
        cells.append(cell)
    return "; ".join(cells)


def lines_of(record: dict) -> list[tuple]:
    """A line a contestant of ours, a line a check of its own, a line an error."""
    ours = {name: one for name, one in record["contestants"].items() if one["kind"] == "ours"}
    checks, what = [c for c in record["checks"] if c], record["row"]
    lines = []
    for name, one in ours.items():
        bars = "; ".join(verdict(c) for c in checks if c["of"] == name)
        lines.append((what, name, number(one["median_ms"]), number(one["tflops"]), f"{one['percent_gemm']:.0f}",
                      f"{one['percent_copy']:.0f}", _peer_cells(record, name), bars))
    if not ours and record["contestants"]:
        lines.append((what, "-", "", "", "", "", _peer_cells(record, None), ""))
    lines += [(what, c["what"], "", "", "", "", record.get("note", ""), verdict(c)) for c in checks if c["of"] is None]
    return lines + [(what, name, "", "", "", "", error, "FAILED") for name, error in record["errors"].items()]


def table(result: dict) -> str:
    """Markdown, columns aligned so that a terminal shows it too."""
    lines = [HEAD, *(line for record in result["rows"] for line in lines_of(record))]
    widths = [max(len(line[i]) for line in lines) for i in range(len(HEAD))]
    text = ["| " + " | ".join(cell.ljust(width) for cell, width in zip(line, widths)) + " |" for line in lines]
    text.insert(1, "|" + "|".join("-" * (width + 2) for width in widths) + "|")
    return "\n".join([heading(result), "", *text, *(f"skipped: {note}" for note in result["skipped"])])


def heading(result: dict) -> str:
    """The card, the versions and the ceilings of the run."""
    card, peers = result["card"], result.get("versions") or {}
    parts = [card["name"], *(f"{key} {card[key]}" for key in ("clocks.sm", "power.draw", "pstate") if key in card),
             *(f"{name} {version}" for name, version in peers.items())]
    ceilings = [record["ceiling"] for record in result["rows"] if record["ceiling"]]
    for name, ceiling in (("ceilings seen by purekv", _middle(ceilings)), ("by PyTorch", result.get("torch_ceiling"))):
        if ceiling:
            parts.append(f"{name}: {ceiling['gemm_tflops']:.0f} TFLOP/s, {ceiling['copy_gbps'] / 1e3:.2f} TB/s")
    return ", ".join(parts)


def _middle(ceilings: list[dict]) -> dict | None:
    """The median ceiling over the rows."""
    if not ceilings:
        return None
    return {key: sorted(c[key] for c in ceilings)[len(ceilings) // 2] for key in ("gemm_tflops", "copy_gbps")}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("result", type=pathlib.Path, nargs="+")
    for path in parser.parse_args().result:
        print(table(json.loads(path.read_text(encoding="utf-8"))))


if __name__ == "__main__":
    main()
