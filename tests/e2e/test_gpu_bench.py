"""The GPU benchmark without a GPU: races, bars, table, JSON and picture from a stub program; gpu.sh over stub tools."""

import itertools
import json
import os
import subprocess
import sys
import xml.etree.ElementTree

import numpy as np
import pytest

import helpers

ROOT = helpers.ROOT
sys.path.insert(0, str(ROOT / "bench"))

import gpu_plot  # noqa: E402
import gpu_race  # noqa: E402
import gpu_report  # noqa: E402
import gpu_rows  # noqa: E402

GEMM, COPY = 800.0, 4000.0

# Prints what `purekv bench` would: 10 ms for the full cache, 8 ms for a fifth, 4 ms for everything else; refuses fp8.
STUB = f"""#!{sys.executable}
import json, sys
sys.path.insert(0, {str(ROOT / "bench")!r})
import gpu_rows
words = sys.argv[1:]
value = lambda flag, default=0: int(words[words.index(flag) + 1]) if flag in words else default
if "fp8" in words:
    sys.exit("purekv: error: no fp8 here")
shape = gpu_rows.TINY.shape
rows = value("--tokens") or value("--prefix") + value("--frames") * value("--tokens-per-frame") + value("--question")
st = "spatial-temporal" in words
video = value("--frames"), value("--tokens-per-frame"), value("--prefix")
pairs = gpu_rows.st_pairs(*video) if st else gpu_rows.dense_pairs(rows)
ms = 10 if "full" in words else 8 if "--budget" in words else 4
full = 1000 * rows * value("--batch", 1)
kept = full if "full" in words else full // 5
print(json.dumps({{"what": words[1], "shape": "custom", "median_ms": ms, "min_ms": ms - 1, "max_ms": ms + 1,
    "flops_useful": shape.attention_work(rows, pairs)[0], "bytes": 1e6, "tflops": 0,
    "ceiling": {{"gemm_tflops": {GEMM}, "copy_gbps": {COPY}}}, "percent_of_ceiling": 0,
    "kv": {{"bytes_full": full, "bytes_kept": kept, "bytes_peak": kept, "rows": rows, "rows_kept": []}}}}))
"""


class StubPeers:
    """Peers of fixed times: 40 ms, twice that for eager. Flex cannot start."""

    def versions(self):
        return {"torch": "0.0"}

    def free_bytes(self):
        return None

    def flex(self, *_):
        raise RuntimeError("no compiler\nand more lines")

    def sdpa(self, *_):
        return lambda: [40.0, 40.0, 41.0]

    def vision(self, *_):
        return lambda: [40.0]

    def prefill(self, rows, attention, repeat):
        return lambda: [80.0 if attention == "eager" else 40.0] * repeat

    decode = prefill


@pytest.fixture(scope="module")
def stub(tmp_path_factory):
    path = tmp_path_factory.mktemp("stub") / "purekv"
    path.write_text(STUB)
    path.chmod(0o755)
    return path


@pytest.fixture(scope="module")
def result(stub):
    """Every row of the tiny sizes, in the form of the JSON file."""
    lab = gpu_rows.Lab(gpu_race.Program(str(stub), "cuda"), StubPeers(), gpu_rows.TINY)
    rows = [{"row": row.name, "group": row.group, **gpu_race.attempt(row.run, lab)}
            for row in gpu_rows.rows(gpu_rows.TINY)]
    whole = {"card": {"name": "NVIDIA H200", "pstate": "P0"}, "rows": rows, "skipped": ["a row: 9 s planned, 1 s left"],
             "versions": {"torch": "0.0"}, "torch_ceiling": {"gemm_tflops": 790.0, "copy_gbps": 4200.0}}
    return json.loads(json.dumps(whole))


def record(result, row):
    return next(r for r in result["rows"] if r["row"] == row)


def checks(result, row):
    return {(c["what"], c["of"]): c for c in record(result, row)["checks"]}


@pytest.mark.parametrize("frames,cells,prefix", [(1, 5, 0), (2, 3, 4), (4, 6, 3), (5, 1, 1), (7, 9, 32)])
def test_the_mask_and_its_count_are_the_definition(frames, cells, prefix):
    rows = prefix + frames * cells
    index = np.arange(rows)
    mask = gpu_rows.st_mask(cells, prefix)(0, 0, index[:, None], index[None, :])
    for i, j in itertools.product(range(rows), repeat=2):
        frame = lambda row: (row - prefix) // cells
        text = i < prefix or j < prefix
        sees = text or frame(j) == frame(i) or frame(j) == 0 or j == i - cells
        assert mask[i, j] == (j <= i and sees), (i, j)
    assert mask.sum() == gpu_rows.st_pairs(frames, cells, prefix)


@pytest.mark.parametrize("frames,cells,prefix", [(1, 6, 2), (4, 6, 3), (5, 12, 32)])
def test_the_program_counts_the_same_pairs(purekv_bin, frames, cells, prefix):
    shape = gpu_rows.TINY.shape
    done = helpers.run(["bench", "attention", *shape.flags(), "--frames", str(frames), "--tokens-per-frame", str(cells),
                        "--prefix", str(prefix), "--attention", "spatial-temporal", "--device", "cpu", "--json"]).json()
    flops, _ = shape.attention_work(0, gpu_rows.st_pairs(frames, cells, prefix))
    assert done["flops_useful"] == flops


def test_turns_go_there_and_back():
    seen = []
    peers = [gpu_race.Peer(name, lambda name=name: lambda: seen.append(name) or [1.0]) for name in "ABC"]
    gpu_race.race(peers, None, 2)
    assert "".join(seen) == "ABCCBAABCCBA"


def test_one_that_fails_does_not_stop_the_others():
    peers = [gpu_race.Peer("good", lambda: lambda: [2.0]), gpu_race.Peer("bad", lambda: lambda: [1 / 0])]
    raced = gpu_race.race(peers, None, 1)
    assert list(raced["contestants"]) == ["good"] and "ZeroDivisionError" in raced["errors"]["bad"]


def test_a_ratio_is_of_turns_against_turns():
    taken = {"a": {"turns_ms": [1, 2, 4]}, "b": {"turns_ms": [3, 4, 4]}}
    assert gpu_race.ratio({"contestants": taken}, "b", "a") == {"median": 2, "min": 1, "max": 3}
    assert gpu_race.ratio({"contestants": taken}, "b", "c") is None


def test_every_row_has_run(result):
    assert [r["row"] for r in result["rows"]] == [row.name for row in gpu_rows.rows(gpu_rows.TINY)]
    failed = {name for r in result["rows"] for name in r["errors"]}
    assert failed == {gpu_rows.FLEX, gpu_rows.FULL_FP8, gpu_rows.FIFTH_FP8}
    assert record(result, "attention ST 4x12")["errors"][gpu_rows.FLEX] == "RuntimeError: no compiler"
    assert "no fp8 here" in record(result, "prefill 128k N=16")["errors"][gpu_rows.FIFTH_FP8]


def test_rates_and_percents(result):
    dense = record(result, "attention dense 64")["contestants"]
    flops = 4 * (64 * 65 // 2) * 4 * 16
    assert dense["purekv"]["tflops"] == pytest.approx(flops / 4e-3 * 1e-12)
    assert dense["purekv"]["percent_gemm"] == pytest.approx(100 * flops / 4e-3 * 1e-12 / GEMM)
    assert dense["purekv"]["percent_copy"] == pytest.approx(100 * 1e6 / 4e-3 / (COPY * 1e9))
    assert dense[gpu_rows.CUDNN]["tflops"] == pytest.approx(flops / 40e-3 * 1e-12)


def test_bars(result):
    assert checks(result, "attention dense 64")["of cuDNN's rate", "purekv"]["met"]
    short = checks(result, "prefill 8k N=16")
    assert short["of transformers sdpa", gpu_rows.FULL]["median"] == 4
    assert short["of transformers sdpa", gpu_rows.FIFTH]["median"] == 5
    assert short["cost of score, select and compact", None]["bar"] is None
    assert checks(result, "prefill 32k N=64")["cost of score, select and compact", None]["bar"] == 4
    cost = checks(result, "prefill 32k N=16")["cost of score, select and compact", None]
    assert cost["median"] == pytest.approx(-20) and cost["bar"] == 2 and cost["met"]
    batch = checks(result, "decode 256 x 8")["of our full cache", gpu_rows.FIFTH]
    assert batch["median"] == 1.25 and batch["met"] is False
    assert gpu_rows.EAGER not in record(result, "prefill 32k N=16")["contestants"]


def test_the_pool_counts_what_fits_and_runs_it(result):
    pool = record(result, "decode 256, pool")
    assert pool["x"]["fit"] == {gpu_rows.FULL: 7, gpu_rows.FIFTH: 39} == pool["x"]["ran"]
    assert "--batch 39" in pool["contestants"][gpu_rows.FIFTH]["command"]
    assert checks(result, "decode 256, pool")["sequences in the pool, 20 % over full", None]["median"] == 39 / 7


def test_counts_that_differ_are_an_error():
    taken = {"contestants": {"purekv": {"kind": "ours", "flops_useful": 5.0}}, "errors": {}, "ceiling": None}
    gpu_race.count_alike(taken, 6.0, 1.0)
    assert taken["errors"] == {"purekv FLOPs": "5 counted, 6 expected"}


def test_the_table(result):
    text = gpu_report.table(result)
    head = "NVIDIA H200, pstate P0, torch 0.0, ceilings seen by purekv: 800 TFLOP/s, 4.00 TB/s, by PyTorch: 790 TFLOP/s"
    assert text.startswith(head)
    lines = [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines() if line[:1] == "|"]
    assert {len(line) for line in lines} == {8}
    assert any(line[:3] == ["prefill 8k N=16", "full cache", "10.0"] and "transformers eager 80.0, 8.00x (8.00 to 8.00)"
               in line[6] and line[7] == "4 x (4 to 4), >= 1.25: met" for line in lines)
    assert any(line[7] == "FAILED" and "no fp8 here" in line[6] for line in lines)
    assert text.splitlines()[-1] == "skipped: a row: 9 s planned, 1 s left"


def test_the_picture(result, tmp_path):
    drawn = gpu_plot.picture([result])
    root = xml.etree.ElementTree.fromstring(drawn)
    words = [node.text for node in root.iter() if node.tag.endswith("}text")]
    assert {"purekv", "cuDNN SDPA", "transformers sdpa", "purekv 20 %, N=16", "purekv full cache, N=64"} <= set(words)
    assert "prefers-color-scheme:dark" in drawn
    groups = [{**result, "rows": [r for r in result["rows"] if r["group"] == group]}
              for group in ("attention", "prefill")]
    assert gpu_plot.picture(groups) == drawn
    assert gpu_plot.picture([{**result, "rows": []}]) == ""
    (tmp_path / "r.json").write_text(json.dumps(result))
    subprocess.run([sys.executable, ROOT / "bench" / "gpu_plot.py", tmp_path / "r.json", "--svg", tmp_path / "r.svg"],
                   check=True)
    assert (tmp_path / "r.svg").read_text() == drawn


def bench(stub, out, *flags):
    command = [sys.executable, str(ROOT / "bench" / "gpu_bench.py"), "--program", str(stub), "--tiny", "--no-peers",
               "--out", str(out), *flags]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_the_script_writes_json_and_picture(stub, tmp_path):
    done = bench(stub, tmp_path, "--only", "attention,prefill", "--match", "prefill 8k|dense")
    assert done.returncode == 0, done.stderr
    (path,) = tmp_path.glob("gpu_*_attention_prefill.json")
    found = json.loads(path.read_text())
    assert [r["row"] for r in found["rows"]] == ["attention dense 64", "attention dense 128", "prefill 8k N=16"]
    assert found["rows"][0]["ceiling"] == {"gemm_tflops": GEMM, "copy_gbps": COPY}
    assert path.with_suffix(".svg").exists() and done.stdout.endswith(f"{path}\n")


def test_rows_beyond_the_budget_are_named(stub, tmp_path):
    done = bench(stub, tmp_path, "--only", "vision", "--budget-seconds", "1")
    assert done.returncode == 0 and "skipped: vision 2x4x6 patches: 12 s planned, 1 s left" in done.stdout
    assert bench(stub, tmp_path, "--only", "video").returncode == 2
    assert bench(tmp_path / "absent", tmp_path).returncode == 2


GTEST = """#!/bin/sh
case "$*" in
  *list_tests*filter=\\*CudaThing*) printf 'CudaThing.\\n  Works\\n'; exit 0;;
  *list_tests*) MEMORY; exit 0;;
esac
echo '[       OK ] CudaThing.Works (1 ms)'
echo "$*" | grep -q 'filter=[*]CudaThing[.][*]' || echo '[  FAILED  ] CudaThing.Filter (1 ms)'
EXTRA
"""


@pytest.fixture
def tree(tmp_path):
    """A folder that gpu.sh takes for the repository, with stub tools on the PATH. A function runs it there."""
    bin_dir, programs = tmp_path / "tools", tmp_path / "build" / "cuda-bare" / "bin"
    for folder in (bin_dir, programs, tmp_path / "scripts", tmp_path / "tests", tmp_path / "bench"):
        folder.mkdir(parents=True)
    (tmp_path / "scripts" / "gpu.sh").write_text((ROOT / "scripts" / "gpu.sh").read_text())
    (tmp_path / "tests" / "thing_test.cpp").write_text('#include "support/cuda.h"\nTEST_F(CudaThing, Works) {}\n')
    (tmp_path / "bench" / "gpu_bench.py").write_text("import sys\nprint('bench', *sys.argv[1:])\n")

    def tool(name, text, folder=bin_dir):
        (folder / name).write_text(text)
        (folder / name).chmod(0o755)

    for name in ("nvcc", "cmake"):
        tool(name, "#!/bin/sh\n")
    tool("nvidia-smi", "#!/bin/sh\necho NVIDIA H200, 580\n")
    tool("compute-sanitizer", '#!/bin/sh\nwhile [ "${1#--}" != "$1" ]; do shift 2; done\n"$@"\n')
    tool("kernels_tests", GTEST.replace("EXTRA", "").replace("MEMORY", ":"), programs)

    def run(*words, **environment):
        path = f"{bin_dir}{os.pathsep}{os.environ['PATH']}"
        env = {**os.environ, "PATH": path, "OUT": str(tmp_path / "out"), **environment}
        return subprocess.run(["bash", str(tmp_path / "scripts" / "gpu.sh"), *words], capture_output=True, text=True,
                              check=False, env=env)

    run.tool, run.programs, run.tools = tool, programs, bin_dir
    return run


def test_gpu_script_runs_all_and_ends_with_its_table(tree):
    done = tree("all", "--only", "vision", PUREKV_GPU_SECONDS="500")
    assert done.returncode == 0, done.stderr
    assert "bench --program build/cuda-bare/bin/purekv --out" in done.stdout
    assert "--budget-seconds" in done.stdout and "--only vision" in done.stdout
    last = [line.split() for line in done.stdout.splitlines()[-3:]]
    assert [line[:4] for line in last] == [["kernels_tests", "1", "0", "0"], ["kernels_tests", "memcheck", "1", "0"],
                                           ["kernels_tests", "racecheck", "1", "0"]]


def test_gpu_script_tells_of_failures_and_crashes(tree):
    tree.tool("kernels_tests", GTEST.replace("EXTRA", "exit 139").replace("MEMORY", ":"), tree.programs)
    done = tree("tests")
    assert done.returncode == 1 and "kernels_tests ended with 139" in done.stderr
    assert done.stdout.splitlines()[-3].split()[:4] == ["kernels_tests", "1", "1", "0"]


def test_gpu_script_sanitises_the_test_that_counts_memory_alone(tree):
    counts = "printf 'CudaThing.\\n  OutOfMemory\\n'"
    tree.tool("kernels_tests", GTEST.replace("EXTRA", "").replace("MEMORY", counts), tree.programs)
    done = tree("tests")
    names = [line.split()[:3] for line in done.stdout.splitlines() if line.startswith("kernels_tests")]
    assert names == [["kernels_tests", "1", "0"], ["kernels_tests", "memcheck", "1"],
                     ["kernels_tests", "memory", "memcheck"], ["kernels_tests", "racecheck", "1"],
                     ["kernels_tests", "memory", "racecheck"]]


def test_gpu_script_needs_a_gpu_and_known_words(tree):
    assert tree("everything").returncode == 2
    tree.tool("nvidia-smi", "#!/bin/sh\nexit 9\n")
    done = tree("bench")
    assert done.returncode == 4 and "finds no GPU" in done.stderr
