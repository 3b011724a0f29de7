#!/usr/bin/env python3
"""The picture of a GPU benchmark: attention in useful TFLOP/s, prefill in time over length and frame size.

    python3 bench/gpu_plot.py bench/results/gpu_nvidia_h200.json --svg docs/images/gpu.svg
"""

import argparse
import json
import math
import pathlib

from gpu_rows import CUDNN, EAGER, FA2, FIFTH, FIFTH_FP8, FLEX, FULL, SDPA

# Each works on white and on near-black; the ground and the text follow the reader's scheme.
COLORS = {"purekv": "#2da44e", FLEX: "#8c959f", CUDNN: "#218bff", FA2: "#bc4c00", SDPA: "#bc4c00", EAGER: "#a475f9"}
STYLE = """text{font:12px sans-serif;fill:#424a53}.small{font-size:10px}.ground{fill:#fff}.grid{stroke:#d0d7de}
@media (prefers-color-scheme:dark){text{fill:#c9d1d9}.ground{fill:#0d1117}.grid{stroke:#30363d}}"""
WIDTH, HEIGHT = 960, 380
TOP, BASE = 66, 300


def text(x, y, words, anchor="start", color=None, small=False) -> str:
    style = f' style="fill:{color}"' if color else ""
    size = ' class="small"' if small else ""
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}"{size}{style}>{words}</text>'


def line(x1, y1, x2, y2) -> str:
    return f'<line class="grid" x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}"/>'


def milliseconds(ms: float) -> str:
    return f"{ms / 1000:.3g} s" if ms >= 1000 else f"{ms:.3g} ms"


def legend(names, left, y) -> list[str]:
    out = []
    for name, color in names:
        out.append(f'<rect x="{left}" y="{y - 9}" width="10" height="10" fill="{color}"/>{text(left + 14, y, name)}')
        left += 30 + 7 * len(name)
    return out


def attention_panel(records, left, width) -> list[str]:
    """Bars: a group a row, a bar a contestant, our time below."""
    top_rate = max(one["tflops"] for r in records for one in r["contestants"].values())
    top_rate = max(100, 100 * math.ceil(top_rate / 100))
    level = lambda rate: BASE - (BASE - TOP) * rate / top_rate
    out = [text(left, 20, "attention, 28/4 heads of 128: useful TFLOP/s; below: our time")]
    for rate in range(0, top_rate + 1, 100 if top_rate <= 800 else 200):
        out += [line(left, level(rate), left + width, level(rate)), text(left - 6, level(rate) + 4, rate, "end")]
    group = width / len(records)
    bar = min(18.0, group / 3.2)
    for i, record in enumerate(records):
        bars = list(record["contestants"].items())
        center = left + group * (i + 0.5)
        for j, (name, one) in enumerate(bars):
            x = center + (j - len(bars) / 2) * bar
            out.append(f'<rect x="{x:.1f}" y="{level(one["tflops"]):.1f}" width="{bar - 1:.1f}" '
                       f'height="{BASE - level(one["tflops"]):.1f}" fill="{COLORS[name]}"/>')
            out.append(text(x + bar / 2, level(one["tflops"]) - 3, f"{one['tflops']:.0f}", "middle", small=True))
        kind, size = record["row"].removeprefix("attention ").split(" ", 1)
        out += [text(center, BASE + 16, kind, "middle"), text(center, BASE + 31, size, "middle")]
        if ours := record["contestants"].get("purekv"):
            out.append(text(center, BASE + 46, milliseconds(ours["median_ms"]), "middle", small=True))
    seen = [name for name in ("purekv", FLEX, CUDNN, FA2) if any(name in r["contestants"] for r in records)]
    return out + legend([(name, COLORS[name]) for name in seen], left, 44)


def series_of(records) -> list[tuple]:
    """(label, color, dash, [(rows, ms)]) of the prefill lines that have points."""
    cells = sorted({r["x"]["cells"] for r in records})
    wanted = [(SDPA, None, COLORS[SDPA], ""), (EAGER, None, COLORS[EAGER], "")]
    for name, shade in ((FULL, "#116329"), (FIFTH, COLORS["purekv"])):
        wanted += [(name, n, shade, "" if n == cells[0] else "5 4") for n in cells]
    wanted.append((FIFTH_FP8, cells[0], "#d4a72c", ""))
    found = []
    for name, n, color, dash in wanted:
        points = sorted((r["x"]["rows"], r["contestants"][name]["median_ms"]) for r in records
                        if name in r["contestants"] and n in (None, r["x"]["cells"]))
        if points:
            found.append((name if n is None else f"purekv {name}, N={n}", color, dash, points))
    return found


def prefill_panel(records, left, width) -> list[str]:
    """Lines on two log scales: time over prompt rows, a line a contestant and frame size."""
    series = series_of(records)
    points = [point for *_, found in series for point in found]
    lengths = {r["x"]["rows"]: r["x"]["length"] for r in records}
    low_x, high_x = math.log(min(lengths)), math.log(max(lengths) * 1.0001)
    low, high = math.floor(math.log10(min(ms for _, ms in points))), math.ceil(math.log10(max(ms for _, ms in points)))
    high = max(high, low + 1)
    place = lambda rows: left + 20 + (width - 40) * ((math.log(rows) - low_x) / max(0.1, high_x - low_x))
    level = lambda ms: BASE - (BASE - TOP) * (math.log10(ms) - low) / (high - low)
    out = [text(left, 20, "prefill of the 7B shape, spatial-temporal from layer 3: time"),
           text(left, 38, "rows of the prompt and both axes logarithmic; N = rows a frame", small=True)]
    for power in range(low, high + 1):
        out += [line(left, level(10**power), left + width, level(10**power)),
                text(left - 6, level(10**power) + 4, milliseconds(10**power), "end")]
    out += [text(place(rows), BASE + 16, name, "middle") for rows, name in lengths.items()]
    for i, (name, color, dash, found) in enumerate(series):
        path = " ".join(f"{place(rows):.1f},{level(ms):.1f}" for rows, ms in found)
        dashes = f' stroke-dasharray="{dash}"' if dash else ""
        out.append(f'<polyline points="{path}" fill="none" stroke="{color}" stroke-width="2"{dashes}/>')
        out += [f'<circle cx="{place(rows):.1f}" cy="{level(ms):.1f}" r="3" fill="{color}"/>' for rows, ms in found]
        x, y = left + width + 14, TOP + 8 + 34 * i
        times = [milliseconds(dict(found)[rows]) if rows in dict(found) else "-" for rows in sorted(lengths)]
        out += [f'<path d="M{x - 6} {y - 4}h18" stroke="{color}" stroke-width="3"{dashes}/>',
                text(x + 17, y, name), text(x + 17, y + 13, " / ".join(times), small=True)]
    return out


def picture(results) -> str:
    """The SVG of one run's results, or of several that each hold a group of rows; "" without such rows."""
    records = [record for result in results for record in result["rows"]]
    attention = [r for r in records if r["group"] == "attention"
                 and any("tflops" in one for one in r["contestants"].values())]
    for record in attention:  # without ours there is no count of FLOPs
        record["contestants"] = {name: one for name, one in record["contestants"].items() if "tflops" in one}
    prefill = [r for r in records if r["group"] == "prefill" and r["contestants"]]
    parts = (attention_panel(attention, 50, 400) if attention else []) + (
        prefill_panel(prefill, 530, 230) if prefill else [])
    if not parts:
        return ""
    label = f"PureKV and its peers on {results[0]['card']['name']}"
    return (f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" width="{WIDTH}" height="{HEIGHT}" '
            f'role="img" aria-label="{label}"><style>{STYLE}</style>'
            f'<rect class="ground" width="{WIDTH}" height="{HEIGHT}"/>{"".join(parts)}'
            f'{text(WIDTH - 10, HEIGHT - 10, label, "end", small=True)}</svg>\n')


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("result", type=pathlib.Path, nargs="+", help="JSON of one run, or of several by group")
    parser.add_argument("--svg", type=pathlib.Path, required=True)
    args = parser.parse_args()
    drawn = picture([json.loads(path.read_text(encoding="utf-8")) for path in args.result])
    if not drawn:
        parser.error("no attention or prefill row in these results")
    args.svg.write_text(drawn, encoding="utf-8")


if __name__ == "__main__":
    main()
