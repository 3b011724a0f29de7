#!/usr/bin/env python3
"""The README's quality table and picture from the records of `purekv eval`.

    purekv eval MANIFEST --budget-base video --settings full,random@50%,... --out records.jsonl
    python tools/quality_table.py records.jsonl --svg docs/images/quality.svg --json bench/results/quality.json

Prints Markdown: a row a method, a column a budget, and a row a task at one budget. An item counts under a setting only
where every setting has answered it.
"""

import argparse
import collections
import json
import pathlib

METHODS = ("random", "purekv-paper", "purekv")
COLORS = {"random": "#8c959f", "purekv-paper": "#bc4c00", "purekv": "#1a7f37", "full": "#0969da"}


def read(path):
    """{(id, setting): record} of the items that every setting has."""
    records = {}
    for line in path.read_text(encoding="utf-8").splitlines():
        record = json.loads(line)
        records[record["id"], record["setting"]] = record
    settings = {setting for _, setting in records}
    counts = collections.Counter(name for name, _ in records)
    return {key: r for key, r in records.items() if counts[key[0]] == len(settings)}


def rates(records, key):
    """{(group, setting): (percent right, items)}, where key(record) names the group."""
    right, count = collections.Counter(), collections.Counter()
    for (_, setting), record in records.items():
        right[key(record), setting] += record["correct"]
        count[key(record), setting] += 1
    return {at: (100 * right[at] / count[at], count[at]) for at in count}


def cell(found, group, setting):
    """A table's cell: percent right, or a dash where no record has that setting."""
    return f"{found[group, setting][0]:.1f}" if (group, setting) in found else "-"


def kept(records, setting):
    """Percent of the whole cache's bytes that a setting keeps, text rows included; a dash without records."""
    rows = [r for (_, name), r in records.items() if name == setting]
    return f"{100 * sum(r['bytes_kept'] for r in rows) / sum(r['bytes_full'] for r in rows):.0f} %" if rows else "-"


def budgets(records):
    return sorted({s.split("@")[1] for _, s in records if "@" in s}, key=lambda b: -float(b.rstrip("%")))


def table(records):
    overall = rates(records, lambda _: "all")
    columns = budgets(records)
    items = max(count for _, count in overall.values())
    bytes_row = " | ".join(kept(records, f"purekv@{b}") for b in columns)
    lines = [f"| exact match, % of {items} items | full | " + " | ".join(columns) + " |",
             "|---" * (len(columns) + 2) + "|"]
    for method in METHODS:
        cells = " | ".join(cell(overall, "all", f"{method}@{b}") for b in columns)
        lines.append(f"| `{method}` | {cell(overall, 'all', 'full')} | {cells} |")
    return "\n".join([*lines, f"| bytes kept, all text included | 100 % | {bytes_row} |"])


def task_table(records, budget):
    by_task = rates(records, lambda r: r["task"])
    tasks = sorted({task for task, _ in by_task})
    lines = [f"| at {budget} | " + " | ".join(tasks) + " |", "|---" * (len(tasks) + 1) + "|"]
    for setting in ("full", *(f"{m}@{budget}" for m in METHODS)):
        lines.append(f"| `{setting}` | " + " | ".join(cell(by_task, t, setting) for t in tasks) + " |")
    return "\n".join(lines)


def picture(records):
    """An SVG: exact match over the budget, a line a method."""
    overall = rates(records, lambda _: "all")
    columns = budgets(records)
    left, top, width, height = 60, 30, 420, 220
    place = {b: left + width * i / max(1, len(columns) - 1) for i, b in enumerate(columns)}
    level = lambda percent: top + height * (1 - percent / 100)
    out = []
    for percent in range(0, 101, 20):
        y = level(percent)
        out.append(f'<line x1="{left}" y1="{y}" x2="{left + width}" y2="{y}" stroke="#d0d7de"/>'
                   f'<text x="{left - 8}" y="{y + 4}" text-anchor="end">{percent}</text>')
    for budget, x in place.items():
        out.append(f'<text x="{x}" y="{top + height + 20}" text-anchor="middle">{budget}</text>')
    known = lambda method: [b for b in columns if ("all", f"{method}@{b}") in overall]
    lines = {m: [(place[b], level(overall["all", f"{m}@{b}"][0])) for b in known(m)] for m in METHODS}
    if ("all", "full") in overall:
        full = level(overall["all", "full"][0])
        lines["full"] = [(left, full), (left + width, full)]
    for name, points in ((name, points) for name, points in lines.items() if points):
        dash = ' stroke-dasharray="6 4"' if name == "full" else ""
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
        out.append(f'<polyline points="{path}" fill="none" stroke="{COLORS[name]}" stroke-width="2.5"{dash}/>')
        shift = -4 if name == "full" else 4
        out.append(f'<text x="{left + width + 8}" y="{points[-1][1] + shift:.1f}" fill="{COLORS[name]}">{name}</text>')
    title = "exact match of the demo model (%) over the share of video rows kept"
    return (f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 600 290" width="600" height="290" role="img" '
            f'aria-label="{title}"><style>text{{font:12px sans-serif;fill:#424a53}}</style>'
            f'<rect width="600" height="290" fill="#ffffff"/><text x="{left}" y="16">{title}</text>{"".join(out)}</svg>\n')


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("records", type=pathlib.Path)
    parser.add_argument("--tasks-at", default="20%")
    parser.add_argument("--svg", type=pathlib.Path)
    parser.add_argument("--json", type=pathlib.Path)
    args = parser.parse_args()
    records = read(args.records)
    if not records:
        parser.exit(1, f"{args.records}: no item has records of every setting; finish the run of purekv eval\n")
    print(table(records), task_table(records, args.tasks_at), sep="\n\n")
    if args.svg:
        args.svg.write_text(picture(records), encoding="utf-8")
    if args.json:
        overall, by_task = rates(records, lambda _: "all"), rates(records, lambda r: r["task"])
        rows = [{"task": task, "setting": setting, "percent": round(percent, 2), "items": items}
                for (task, setting), (percent, items) in sorted({**overall, **by_task}.items())]
        args.json.write_text(json.dumps({"rows": rows}, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
