"""Turns of `purekv bench` and of peers in the order A B B A; medians, and ratios with their spread over the turns."""

import dataclasses
import json
import os
import statistics
import subprocess
import time
from collections.abc import Callable

PER_CALL_S = 120  # the longest turn, 128k tokens in three runs, takes about 15 s on an H100


class Program:
    """The purekv program on one device. Every turn is a process of its own, which measures its ceilings itself."""

    def __init__(self, path: str, device: str):
        self.path, self.device = path, device

    def bench(self, arguments, repeat: int) -> dict:
        """The JSON object of one run with its command line; RuntimeError with the program's last line if it failed."""
        command = [self.path, "bench", *arguments, "--device", self.device, "--repeat", str(repeat)]
        command += ["--json", "--quiet"]
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=PER_CALL_S, check=False)
        except subprocess.TimeoutExpired:
            raise RuntimeError(f"no answer in {PER_CALL_S} s") from None
        if done.returncode != 0:
            last = (done.stderr.strip() or "no message").splitlines()[-1]
            raise RuntimeError(f"exit {done.returncode}: {last}")
        return {**json.loads(done.stdout), "command": " ".join(["purekv", *command[1:]])}


@dataclasses.dataclass
class Ours:
    """`arguments` of `purekv bench`; a turn is `repeat` runs after one to warm up."""

    name: str
    arguments: tuple
    repeat: int = 3


@dataclasses.dataclass
class Peer:
    """`prepare` builds what a peer needs and returns a function: the milliseconds of each run of one turn."""

    name: str
    prepare: Callable[[], Callable[[], list]]


def _short(error: Exception) -> str:
    return f"{type(error).__name__}: {error}".splitlines()[0][:200]


def _starters(contestants, program):
    """{name: a function that takes one turn} and {name: why it cannot take part}."""
    starters, errors = {}, {}
    for one in contestants:
        try:
            if isinstance(one, Peer):
                run = one.prepare()
                starters[one.name] = lambda run=run: {"times_ms": run()}
            elif program is not None:
                starters[one.name] = lambda one=one: program.bench(one.arguments, one.repeat)
        except Exception as error:  # one that cannot start must not stop the others
            errors[one.name] = _short(error)
    return starters, errors


def race(contestants, program, cycles: int) -> dict:
    """Lets all take turns, there and back `cycles` times; the record of the race."""
    begin = time.perf_counter()
    starters, errors = _starters(contestants, program)
    turns = {name: [] for name in starters}
    for name in [*starters, *reversed(starters)] * cycles:
        if name not in errors:
            try:
                turns[name].append(starters[name]())
            except Exception as error:
                errors[name] = _short(error)
    contestants = {name: _summary(taken) for name, taken in turns.items() if taken}
    ceilings = [one["ceiling"] for one in contestants.values() if "ceiling" in one]
    return {"ceiling": ceilings[0] if ceilings else None, "contestants": contestants, "errors": errors,
            "seconds": round(time.perf_counter() - begin, 1)}


def attempt(run, lab) -> dict:
    """The record of a row; one that cannot be made is an error in the table, not the end of the run."""
    try:
        record = run(lab)
    except Exception as error:
        return {"ceiling": None, "contestants": {}, "errors": {"row": _short(error)}, "seconds": 0, "x": {},
                "checks": []}
    return {**record, "checks": [check for check in record["checks"] if check]}


def _summary(turns) -> dict:
    """One contestant over its turns: a turn counts by its median. Ours has its own ceiling: fp8's is another."""
    if "times_ms" in turns[0]:
        times = [turn["times_ms"] for turn in turns]
        medians = [statistics.median(runs) for runs in times]
        return {"kind": "peer", "median_ms": statistics.median(medians), "min_ms": min(map(min, times)),
                "max_ms": max(map(max, times)), "turns_ms": medians, "runs_a_turn": len(times[0])}
    medians = [turn["median_ms"] for turn in turns]
    median, first = statistics.median(medians), turns[0]
    ceiling = {key: statistics.median(turn["ceiling"][key] for turn in turns) for key in first["ceiling"]}
    kv = {key: value for key, value in first["kv"].items() if key != "rows_kept"}
    return {"kind": "ours", "median_ms": median, "min_ms": min(t["min_ms"] for t in turns),
            "max_ms": max(t["max_ms"] for t in turns), "turns_ms": medians, "flops_useful": first["flops_useful"],
            "bytes": first["bytes"], **rates(first["flops_useful"], first["bytes"], median, ceiling),
            "ceiling": ceiling, "kv": kv, "command": first["command"]}


def rates(flops: float, moved: float, ms: float, ceiling: dict | None) -> dict:
    """Useful TFLOP/s, and the percent of both ceilings of the same race, where they were measured."""
    tflops = flops / ms * 1e-9
    if ceiling is None:
        return {"tflops": tflops}
    return {"tflops": tflops, "percent_gemm": 100 * tflops / ceiling["gemm_tflops"],
            "percent_copy": 100 * moved / ms * 1e-6 / ceiling["copy_gbps"]}


def count_alike(record: dict, flops: float, moved: float) -> None:
    """Rates of peers that do the same work as ours, from an exact count of its own: ours must have counted the same."""
    for name, one in record["contestants"].items():
        if one["kind"] == "peer":
            one.update(rates(flops, moved, one["median_ms"], record["ceiling"]))
        elif abs(one["flops_useful"] / flops - 1) > 1e-9:
            record["errors"][f"{name} FLOPs"] = f"{one['flops_useful']:.6g} counted, {flops:.6g} expected"


def spread(values) -> dict:
    return {"median": statistics.median(values), "min": min(values), "max": max(values)}


def ratio(record: dict, slower: str, faster: str) -> dict | None:
    """How many times longer `slower` took, turn against turn; None where one of them did not run."""
    a, b = (record["contestants"].get(name) for name in (slower, faster))
    if a is None or b is None:
        return None
    return spread([x / y for x, y in zip(a["turns_ms"], b["turns_ms"])])


def check(what: str, value, unit: str, *, at_least=None, at_most=None, of=None) -> dict | None:
    """A value against its bar. `of` names the contestant whose table line shows it; None: a line of its own."""
    if value is None:
        return None
    value = value if isinstance(value, dict) else {"median": value}
    bar, middle = at_least if at_least is not None else at_most, value["median"]
    met = None if bar is None else middle >= bar if at_least is not None else middle <= bar
    return {"what": what, "of": of, **value, "unit": unit, "bar": bar, "at_least": at_least is not None, "met": met}


def card() -> dict:
    """Name, driver, clock, power and temperature of the first GPU as nvidia-smi says; {"name": "cpu"} without one."""
    keys = ["name", "driver_version", "memory.total", "clocks.sm", "power.draw", "temperature.gpu", "pstate"]
    try:
        line = subprocess.run(["nvidia-smi", "-i", "0", f"--query-gpu={','.join(keys)}", "--format=csv,noheader"],
                              capture_output=True, text=True, timeout=20, check=True).stdout
    except (OSError, subprocess.SubprocessError):
        return {"name": "cpu"}
    return dict(zip(keys, map(str.strip, line.strip().split(","))))


def commit() -> str:
    done = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False,
                          cwd=os.path.dirname(os.path.abspath(__file__)))
    return done.stdout.strip()
