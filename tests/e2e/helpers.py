"""What the end-to-end tests share: running the program, reading its traces, judging its errors."""

import json
import os
import pathlib
import subprocess
from dataclasses import dataclass

import numpy

ROOT = pathlib.Path(__file__).resolve().parents[2]
PROGRAM = pathlib.Path(os.environ.get("PUREKV_BIN", ROOT / "build" / "release" / "bin" / "purekv"))
TIMEOUT_S = 600


@dataclass
class Result:
    """How a run ended. `stdout` and `stderr` are text; bytes that are no UTF-8 stay as escapes."""

    code: int
    stdout: str
    stderr: str

    def json(self):
        """The one object on stdout of a run that must have worked."""
        assert self.code == 0, self.stderr
        return json.loads(self.stdout)


def run(args, stdin=None, env=None, cwd=None) -> Result:
    """Runs the program with `args`; `stdin` is bytes or text, nothing by default."""
    command = [os.fspath(PROGRAM), *(os.fspath(arg) if isinstance(arg, os.PathLike) else arg for arg in args)]
    data = stdin.encode() if isinstance(stdin, str) else stdin or b""
    done = subprocess.run(command, input=data, capture_output=True, check=False, timeout=TIMEOUT_S, cwd=cwd,
                          env={**os.environ, **(env or {})})
    return Result(done.returncode, *(text.decode(errors="backslashreplace") for text in (done.stdout, done.stderr)))


def load_trace(folder) -> dict:
    """Every file of a trace by its name without the ending: arrays, and `segments` as a dictionary."""
    folder = pathlib.Path(folder)
    trace = {path.stem: numpy.load(path) for path in sorted(folder.glob("*.npy"))}
    segments = folder / "segments.json"
    if segments.exists():
        trace["segments"] = json.loads(segments.read_text())
    return trace


def one_error_line(result: Result, *codes: int) -> str:
    """Asserts the contract of a failed run and returns the message: its code, one line, empty stdout."""
    assert result.code in codes, (result.code, result.stderr)
    assert result.stdout == ""
    lines = result.stderr.splitlines()
    assert len(lines) == 1 and lines[0].startswith("purekv: error: "), result.stderr
    return lines[0]
