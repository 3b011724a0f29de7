"""The rows of the GPU benchmark, in order of weight: who races whom, and the bars, which were set on an H200."""

import dataclasses
from collections.abc import Callable

from gpu_race import Ours, Peer, check, count_alike, race, ratio, spread

SDPA, EAGER, FLEX = "transformers sdpa", "transformers eager", "FlexAttention"
CUDNN, FA2 = "cuDNN SDPA", "FA2 SDPA"
FULL, FIFTH, FULL_FP8, FIFTH_FP8 = "full cache", "20 %", "full cache, fp8", "20 %, fp8"
PREFIX, QUESTION = 32, 64


def st_mask(cells: int, prefix: int):
    """Spatial-temporal attention as FlexAttention's mask_mod: text and first frame, own frame, the same cell one
    frame earlier. Takes indices that broadcast, of any array library."""
    anchor_end = prefix + cells  # the text before the video and its first frame are neighbours

    def mask(batch, head, query, key):
        own = (query - prefix) // cells == (key - prefix) // cells
        return (query >= key) & ((key < anchor_end) | own | (key == query - cells))

    return mask


def st_pairs(frames: int, cells: int, prefix: int) -> int:
    """Pairs that st_mask leaves visible."""
    own = frames * cells * (cells + 1) // 2
    anchor = max(0, frames - 1) * cells * cells
    previous = max(0, frames - 2) * cells  # the second frame's is in the first, which it sees whole
    return dense_pairs(prefix) + frames * cells * prefix + own + anchor + previous


def dense_pairs(rows: int) -> int:
    return rows * (rows + 1) // 2


@dataclasses.dataclass(frozen=True)
class Shape:
    """Qwen2.5-VL 7B."""

    layers: int = 28
    hidden: int = 3584
    heads: int = 28
    kv_heads: int = 4
    head_dim: int = 128
    ffn: int = 18944
    vocab: int = 152064
    tower_layers: int = 32
    tower_hidden: int = 1280
    tower_heads: int = 16
    tower_ffn: int = 3420
    tower_full: tuple = (7, 15, 23, 31)
    name: str = "qwen2.5-vl-7b"

    def attention_work(self, rows: int, pairs: int) -> tuple[float, float]:
        """FLOPs over the visible pairs, and bytes of q, k, v and the result in bf16."""
        return 4.0 * pairs * self.heads * self.head_dim, 4.0 * rows * (self.heads + self.kv_heads) * self.head_dim

    def flags(self, tower: bool = False) -> tuple:
        """What tells the program of this shape; one without a name gives its sizes."""
        if self.name:
            return ("--shape", self.name)
        layers, hidden, ffn = ((self.tower_layers, self.tower_hidden, self.tower_ffn) if tower
                               else (self.layers, self.hidden, self.ffn))
        heads = self.tower_heads if tower else self.heads
        kv_heads = self.tower_heads if tower else self.kv_heads
        sizes = {"layers": layers, "hidden": hidden, "heads": heads, "kv-heads": kv_heads, "head-dim": self.head_dim,
                 "ffn": ffn}
        return tuple(word for size, value in sizes.items() for word in (f"--{size}", str(value)))


@dataclasses.dataclass(frozen=True)
class Sizes:
    """Lengths of the rows; `TINY` runs every path within seconds on a CPU."""

    shape: Shape = Shape()
    spatial_temporal: tuple = ((64, 192, 320), (64, 256, 400), (64, 1024, 520), (256, 256, 400), (512, 140, 280))
    dense: tuple = (16384, 65536)
    vision: tuple = (64, 24, 32)
    cells: tuple = (256, 1024)
    prefill: tuple = (("8k", 8192, 1.25), ("32k", 32768, 1.7), ("128k", 131072, 2.9))
    decode: tuple = (8192, 131072, 32768)
    sparse_from: int = 3
    pool_bytes: float = 24e9
    weight_bytes: float = 17e9
    kernel_repeat: int = 20
    decode_repeat: int = 32


TINY = Sizes(
    shape=Shape(layers=4, hidden=64, heads=4, kv_heads=2, head_dim=16, ffn=128, vocab=151936, tower_layers=4,
                tower_hidden=64, tower_heads=4, tower_ffn=100, tower_full=(3,), name=""),
    spatial_temporal=((4, 12, 320), (5, 9, 400)), dense=(64, 128), vision=(2, 4, 6), cells=(16, 64),
    prefill=(("8k", 128, 1.25), ("32k", 256, 1.7), ("128k", 512, 2.9)), decode=(64, 512, 256), pool_bytes=2e6,
    weight_bytes=0, kernel_repeat=2, decode_repeat=2)


@dataclasses.dataclass
class Lab:
    """What a row may use. Without `program` peers run alone, without `peers` ours does."""

    program: object
    peers: object
    sizes: Sizes


@dataclasses.dataclass
class Row:
    """`run` gives the record; `seconds` is what it takes on an H100, to plan a run by."""

    name: str
    group: str
    seconds: int
    run: Callable[[Lab], dict]


def _race(lab, ours, peers=(), cycles=1) -> dict:
    """A race of those that can run here, ours between the peers' turns."""
    there = [peer for peer in peers if lab.peers is not None]
    return race([*ours, *there], lab.program, cycles)


def spatial_temporal_row(lab, frames, cells, bar) -> dict:
    s = lab.sizes
    flags = ("attention", *s.shape.flags(), "--attention", "spatial-temporal", "--frames", str(frames),
             "--tokens-per-frame", str(cells), "--prefix", str(PREFIX))
    flex = Peer(FLEX, lambda: lab.peers.flex(frames, cells, PREFIX, s.kernel_repeat))
    record = _race(lab, [Ours("purekv", flags, s.kernel_repeat)], [flex], cycles=2)
    rows = PREFIX + frames * cells
    count_alike(record, *s.shape.attention_work(rows, st_pairs(frames, cells, PREFIX)))
    ours = record["contestants"].get("purekv")
    return {**record, "x": {"frames": frames, "cells": cells, "rows": rows},
            "checks": [check("useful rate", ours and ours["tflops"], "TFLOP/s", at_least=bar, of="purekv")]}


def dense_row(lab, rows) -> dict:
    s = lab.sizes
    flags = ("attention", *s.shape.flags(), "--attention", "dense", "--tokens", str(rows))
    repeat = max(2, min(s.kernel_repeat, s.kernel_repeat * 16384 // rows))  # the longest take 0.1 s a run
    peers = [Peer(name, lambda name=name: lab.peers.sdpa(name, rows, repeat)) for name in (CUDNN, FA2)]
    record = _race(lab, [Ours("purekv", flags, repeat)], peers, cycles=2)
    count_alike(record, *s.shape.attention_work(rows, dense_pairs(rows)))
    return {**record, "x": {"rows": rows},
            "checks": [check("of cuDNN's rate", ratio(record, CUDNN, "purekv"), "x", at_least=0.95, of="purekv")]}


def vision_row(lab, slices, grid_h, grid_w) -> dict:
    cells = grid_h * grid_w // 4
    flags = ("vision", *lab.sizes.shape.flags(tower=True), "--frames", str(slices), "--tokens-per-frame", str(cells))
    tower = Peer(SDPA, lambda: lab.peers.vision(slices, grid_h, grid_w, 3))
    record = _race(lab, [Ours("purekv", flags, 5)], [tower])
    ours = record["contestants"].get("purekv")
    return {**record, "x": {"slices": slices, "cells": cells},
            "checks": [check("time", ours and ours["median_ms"], "ms", at_most=120, of="purekv")]}


def _prompt(sizes, length, cells) -> tuple:
    return ("--frames", str(length // cells), "--tokens-per-frame", str(cells), "--prefix", str(PREFIX), "--question",
            str(QUESTION), "--attention", "spatial-temporal", "--sparse-from", str(sizes.sparse_from))


def _cost(record):
    """Percent that scoring, selecting and compacting add to the prefill that keeps all."""
    kept, full = (record["contestants"].get(name) for name in (FIFTH, FULL))
    if kept is None or full is None:
        return None
    return spread([100 * (a / b - 1) for a, b in zip(kept["turns_ms"], full["turns_ms"])])


def prefill_row(lab, name, length, bar, cells, repeat) -> dict:
    """Full cache and a fifth, at the longest length in fp8 too, and transformers (eager at the shortest only)."""
    s = lab.sizes
    shortest, longest = length == s.prefill[0][1], length == s.prefill[-1][1]
    against_peers = cells == s.cells[0]
    flags = ("prefill", *s.shape.flags(), *_prompt(s, length, cells))
    full, cut, fp8 = (*flags, "--method", "full"), (*flags, "--budget", "20%"), ("--weights", "fp8")
    ours = [Ours(FULL, full, repeat), Ours(FIFTH, cut, repeat)]
    if longest and against_peers:
        ours += [Ours(FULL_FP8, (*full, *fp8), repeat), Ours(FIFTH_FP8, (*cut, *fp8), repeat)]
    rows = PREFIX + length + QUESTION
    kinds = [("sdpa", SDPA)] + ([("eager", EAGER)] if shortest else [])
    peers = [Peer(label, lambda kind=kind: lab.peers.prefill(rows, kind, 1 if longest else 3)) for kind, label in kinds]
    record = _race(lab, ours, peers if against_peers else ())
    checks = []
    if against_peers:
        checks += [check("of transformers sdpa", ratio(record, SDPA, one), "x", at_least=bar, of=one)
                   for one in (FULL, FIFTH)]
        checks += [check("of transformers sdpa", ratio(record, SDPA, one), "x", at_least=4.5, of=one)
                   for one in (FULL_FP8, FIFTH_FP8)]
    cost_bar = None if shortest else 2 if cells == s.cells[0] else 4
    checks.append(check("cost of score, select and compact", _cost(record), "%", at_most=cost_bar))
    fifth = record["contestants"].get(FIFTH)
    if longest and against_peers and fifth:
        checks.append(check("peak KV", fifth["kv"]["bytes_peak"] / 1e9, "GB", at_most=1.8))
    return {**record, "x": {"rows": rows, "cells": cells, "length": name}, "checks": checks}


def _decode(sizes, tokens, *more) -> tuple:
    return ("decode", *sizes.shape.flags(), "--tokens", str(tokens), *more)


def decode_row(lab, tokens, name, arguments, bar, peers=True) -> dict:
    """Batch 1 at one context."""
    s = lab.sizes
    kinds = (("sdpa", SDPA), ("eager", EAGER)) if peers else ()
    rivals = [Peer(label, lambda kind=kind: lab.peers.decode(tokens, kind, s.decode_repeat // 2))
              for kind, label in kinds]
    record = _race(lab, [Ours(name, _decode(s, tokens, *arguments), s.decode_repeat)], rivals)
    ours = record["contestants"].get(name)
    return {**record, "x": {"context": tokens, "batch": 1},
            "checks": [check("time", ours and ours["median_ms"], "ms", at_most=bar, of=name)]}


def _both_caches(lab, tokens, batches, repeat) -> dict:
    """Decode with the full cache and with a fifth; `batches` is {name: sequences}."""
    cut = {FULL: ("--method", "full"), FIFTH: ("--budget", "20%")}
    return _race(lab, [Ours(name, _decode(lab.sizes, tokens, *cut[name], "--batch", str(batch)), repeat)
                       for name, batch in batches.items()])


def batch_row(lab, tokens) -> dict:
    record = _both_caches(lab, tokens, {FULL: 8, FIFTH: 8}, lab.sizes.decode_repeat)
    return {**record, "x": {"context": tokens, "batch": 8},
            "checks": [check("of our full cache", ratio(record, FULL, FIFTH), "x", at_least=1.5, of=FIFTH)]}


def pool_row(lab, tokens) -> dict:
    """How many sequences a pool holds, from the bytes of two; then as many decode at once as the card has room for."""
    s = lab.sizes
    probe = _both_caches(lab, tokens, {FULL: 2, FIFTH: 2}, 1)
    if len(probe["contestants"]) < 2:
        return {**probe, "x": {"context": tokens}, "checks": []}
    each = {name: max(one["kv"]["bytes_kept"], one["kv"]["bytes_peak"]) / 2
            for name, one in probe["contestants"].items()}
    fit = {name: int(s.pool_bytes // size) for name, size in each.items()}
    free = lab.peers.free_bytes() if lab.peers else None
    room = s.pool_bytes if free is None else 0.9 * (free - s.weight_bytes)
    run = {name: max(1, min(fit[name], int(room / each[name]))) for name in fit}
    record = _both_caches(lab, tokens, run, 8)
    ran = [name for name in run if name in record["contestants"]]
    note = f"pool of {s.pool_bytes / 1e9:g} GB, peak bytes of a cache: {fit[FULL]} full, {fit[FIFTH]} at 20 %; " + (
        "ran " + ", ".join(f"{run[name]} {name}" for name in ran) if ran else "neither ran")
    value = fit[FIFTH] / max(1, fit[FULL]) if len(ran) == 2 else None
    return {**record, "x": {"context": tokens, "fit": fit, "ran": run}, "note": note,
            "seconds": record["seconds"] + probe["seconds"],
            "checks": [check("sequences in the pool, 20 % over full", value, "x", at_least=4.5)]}


def rows(sizes: Sizes) -> list[Row]:
    """All rows, what matters most first: a run that is cut off keeps those before."""
    found = [Row(f"attention ST {f}x{n}", "attention", 14, lambda lab, a=(f, n, bar): spatial_temporal_row(lab, *a))
             for f, n, bar in sizes.spatial_temporal]
    found += [Row(f"attention dense {_thousands(n)}", "attention", 10, lambda lab, n=n: dense_row(lab, n))
              for n in sizes.dense]
    slices, grid_h, grid_w = sizes.vision
    found.append(Row(f"vision {slices}x{grid_h}x{grid_w} patches", "vision", 12,
                     lambda lab: vision_row(lab, *sizes.vision)))
    repeats, seconds = (5, 3, 2), {sizes.cells[0]: (30, 30, 95), sizes.cells[1]: (0, 22, 52)}
    prefills = {cells: [Row(f"prefill {name} N={cells}", "prefill", seconds[cells][i],
                            lambda lab, a=(name, length, bar, cells, repeats[i]): prefill_row(lab, *a))
                        for i, (name, length, bar) in enumerate(sizes.prefill)] for cells in sizes.cells}
    found += prefills[sizes.cells[0]]
    short, long, middle = sizes.decode
    found += [
        Row(f"decode {_thousands(short)}", "decode", 20,
            lambda lab: decode_row(lab, short, FULL, ("--method", "full"), 4.2)),
        Row(f"decode {_thousands(long)}", "decode", 8,
            lambda lab: decode_row(lab, long, FIFTH, ("--budget", "20%"), 4.6, peers=False)),
        Row(f"decode {_thousands(middle)} x 8", "decode", 18, lambda lab: batch_row(lab, middle)),
        Row(f"decode {_thousands(middle)}, pool", "decode", 25, lambda lab: pool_row(lab, middle)),
    ]
    return found + prefills[sizes.cells[1]][1:]


def _thousands(rows: int) -> str:
    return f"{rows // 1024}k" if rows % 1024 == 0 else str(rows)
