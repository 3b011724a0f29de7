"""The command line's contract: help, exit codes, one-line errors, the JSON object, interruption, full disks."""

import json
import re
import shutil
import signal
import subprocess

import pytest

from helpers import PROGRAM, load_trace, one_error_line, run

pytestmark = pytest.mark.usefixtures("purekv_bin")

ENGINE = "--model --device --dtype --weights --threads"
MEDIA = "--fps --frames --frame-rate --min-pixels --max-pixels --total-pixels --start --end"
PROMPT = "--system --max-tokens --temp --top-p --top-k --seed --repetition-penalty --ignore-eos"
COMPRESSION = ("--preset --method --budget --budget-base --window --sinks --score --clie-layer --row-reduce "
               "--gqa-reduce --vnorm")
ATTENTION = "--attention --sparse-from --local-window --atrous-rate"
ASK = f"{ENGINE} {MEDIA} {PROMPT} {COMPRESSION} {ATTENTION} --prefill-chunk"
FLAGS = {
    "ask": f"{ASK} --ids --json --trace --quiet",
    "inspect": f"{ENGINE} {MEDIA} --json",
    "tokenize": "--model --special --decode",
    "bench": ("--shape --layers --hidden --heads --kv-heads --head-dim --ffn --tokens --frames --tokens-per-frame "
              f"--prefix --question --batch --weights --device --dtype --threads --seed --repeat --json --quiet "
              f"--prefill-chunk {COMPRESSION} {ATTENTION}"),
    "eval": f"{ASK} --settings --out --shard --report --json --quiet",
    "completion": "",
}


# --- help, version, completion -----------------------------------------------------------------------------------

@pytest.mark.parametrize("command", FLAGS)
def test_help_lists_every_flag(command):
    result = run([command, "--help"])
    assert (result.code, result.stderr) == (0, "")
    assert f"Usage: purekv {command}" in result.stdout
    shown = set(re.findall(r"(?m)^\s+(?:-h,)?(--[a-z-]+)", result.stdout))
    assert shown == {*FLAGS[command].split(), "--config", "--help"}


def test_help_names_every_command():
    result = run(["--help"])
    assert (result.code, result.stderr) == (0, "")
    assert all(re.search(rf"(?m)^  {command} +\w", result.stdout) for command in FLAGS)


def test_help_wins_over_missing_arguments_but_is_a_value_too(demo_model):
    assert run(["ask", "--json", "--help"]).code == 0
    assert run(["ask", "--model", demo_model, "--system", "--help", "hi", "--max-tokens", "1", "--json"]).json()


def test_version():
    result = run(["--version"])
    assert (result.code, result.stderr) == (0, "")
    assert re.fullmatch(r"purekv \d+\.\d+\.\d+\n", result.stdout)


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_knows_every_flag(shell):
    result = run(["completion", shell])
    assert result.code == 0
    for flag in FLAGS["ask"].split():
        assert re.search(rf"(-l {flag[2:]}|{flag})\b", result.stdout), flag
    if shutil.which(shell):
        subprocess.run([shell, "-n"], input=result.stdout, text=True, check=True)


def test_bash_completes_values():
    script = run(["completion", "bash"]).stdout
    ask = 'COMP_WORDS=(purekv ask --score c); COMP_CWORD=3; _purekv; echo "${COMPREPLY[@]}"'
    done = subprocess.run(["bash", "-c", f"{script}\n{ask}"], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["clie", "clie+frame"]


# --- usage errors -------------------------------------------------------------------------------------------------

BAD_NUMBERS = ["", "x", "nan", "inf", "-inf", "1e999", "5x", " 5", "5 ", "+5", "0x10", "99999999999999999999", "-1"]
COUNTS_FROM_ONE = ("--threads --frames --min-pixels --max-pixels --total-pixels --max-tokens --window --local-window "
                   "--atrous-rate --prefill-chunk")
COUNTS_FROM_ZERO = "--top-k --sinks --clie-layer --sparse-from"


@pytest.mark.parametrize("flag", [*COUNTS_FROM_ONE.split(), *COUNTS_FROM_ZERO.split()])
def test_counts(flag):
    """Every form that is no count, and the count below the first one allowed."""
    below = ["0"] if flag in COUNTS_FROM_ONE.split() else []
    for value in [*BAD_NUMBERS, *below, "1.5"]:
        message = one_error_line(run(["ask", f"{flag}={value}", "hi"]), 2)
        assert flag in message and re.search(r"from \d+ to \d+", message)


@pytest.mark.parametrize("flag", ["--fps", "--frame-rate", "--start", "--end", "--temp", "--top-p",
                                  "--repetition-penalty"])
def test_reals(flag):
    below = ["0"] if flag in {"--fps", "--frame-rate", "--top-p", "--repetition-penalty"} else []
    for value in [*BAD_NUMBERS, *below]:
        message = one_error_line(run(["ask", f"{flag}={value}", "hi"]), 2)
        assert flag in message and "at most" in message


@pytest.mark.parametrize("value", ["0", "0%", "-1", "-5%", "100.1%", "101%", "nan%", "inf%", "%", "", "20%%", "20 %",
                                   "20.5", "1e999%", "0x10", "99999999999999999999"])
def test_budget(value):
    assert "--budget" in one_error_line(run(["ask", "--budget", value, "hi"]), 2)


@pytest.mark.parametrize("flag", ["--device", "--dtype", "--method", "--budget-base", "--score", "--row-reduce",
                                  "--gqa-reduce", "--vnorm", "--attention", "--preset"])
def test_words(flag):
    for value in ["", "unheard-of", "FULL"]:
        message = one_error_line(run(["ask", f"{flag}={value}", "hi"]), 2)
        assert flag in message and "|" in message


@pytest.mark.parametrize("arguments", [
    [], ["unheard-of"], ["--unheard-of"], ["ask"], ["ask", "--unheard-of", "hi"], ["ask", "hi", "--budget"],
    ["ask", "--json=1", "hi"], ["ask", "--seed", "1", "--seed", "1", "hi"], ["ask", "--seed", "-1", "hi"],
    ["ask", "--model", "", "hi"], ["ask", "--trace=", "hi"],
    ["ask", "--fps", "1", "--frames", "4", "hi"], ["ask", "--min-pixels", "785", "--max-pixels", "784", "hi"],
    ["ask", "--start", "2", "--end", "2", "hi"], ["ask", "--end", "0", "hi"],
    ["ask", "--attention", "local", "hi"], ["ask", "--attention", "atrous", "hi"],
    ["inspect"], ["inspect", "--fps", "0", "x.mp4"], ["tokenize", "x"],
    ["bench"], ["bench", "unheard-of"], ["bench", "prefill", "--tokens", "8"],
    ["bench", "prefill", "--shape", "unheard-of", "--tokens", "8"],
    ["bench", "prefill", "--layers", "2", "--tokens", "8"],
    ["bench", "prefill", "--shape", "qwen2.5-0.5b"],
    ["bench", "prefill", "--shape", "qwen2.5-0.5b", "--frames", "2"],
    ["bench", "prefill", "--shape", "qwen2.5-0.5b", "--tokens", "8", "--frames", "2"],
    ["bench", "vision", "--shape", "qwen2.5-0.5b", "--tokens", "8"],
    ["bench", "decode", "--shape", "qwen2.5-0.5b", "--tokens", "8", "--repeat", "0"],
    ["eval"], ["eval", "a", "b"], ["eval", "a", "--report"], ["eval", "a", "--shard", "0/2"],
    ["eval", "a", "--shard", "3/2"], ["eval", "a", "--settings", "full@20%"], ["eval", "a", "--settings", "purekv"],
    ["eval", "a", "--settings", "purekv@0%"], ["eval", "a", "--settings", "full,full"],
    ["eval", "a", "--settings", "full", "--budget", "20%"],
    ["completion"], ["completion", "unheard-of"],
], ids=" ".join)
def test_usage_errors(arguments):
    one_error_line(run(arguments), 2)


def test_an_error_line_holds_no_control_characters():
    message = one_error_line(run(["ask", "--device", "a\nb\x1b[31m", "hi"]), 2)
    assert "a\\x0ab\\x1b[31m" in message


# --- input errors -------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("stdin", [b"", b"\n", b"\xff", b"\xed\xa0\x80", b"\xf4\x90\x80\x80", b"\xc0\x80", b"\xe2\x82",
                                   b"a" * (2**20 + 1), b"a" * (3 * 2**20)],
                         ids=["empty", "newline", "byte-ff", "surrogate", "above-10ffff", "overlong", "cut",
                              "a-byte-over", "three-mib"])
def test_questions_that_cannot_be(stdin):
    one_error_line(run(["ask", "-"], stdin=stdin), 3)


@pytest.mark.parametrize("arguments", [
    ["ask", ""], ["ask", "--model", "/no/such/folder", "hi"], ["ask", "/no/such/clip.mp4", "hi"],
    ["inspect", "/no/such/clip.mp4"], ["eval", "/no/such/manifest.json"], ["eval", "/"],
    ["tokenize", "--model", "/no/such/folder"],
], ids=" ".join)
def test_input_errors(arguments):
    one_error_line(run(arguments), 3)


def test_a_device_that_is_not_built_in(demo_model):
    result = run(["ask", "--model", demo_model, "--device", "cuda", "--max-tokens", "1", "hi"])
    if result.code != 0:
        assert "--device cpu" in one_error_line(result, 4)


# --- ask ----------------------------------------------------------------------------------------------------------

SETTINGS = {flag.lstrip("-").replace("-", "_") for flag in FLAGS["ask"].split()} | {"budget_rows"}


def test_json_object(demo_model, small_clip):
    result = run(["ask", "--model", demo_model, small_clip, "What moves?", "--max-tokens", "3", "--json", "--quiet"])
    assert result.stderr == ""
    out = result.json()
    assert out["schema"] == 1 and out["device"] == "cpu" and out["finish_reason"] in {"stop", "length"}
    medium, = out["prompt"]["media"]
    t, h, w = medium["grid_thw"]
    assert (medium["kind"], medium["frame_indices"], medium["sample_fps"]) == ("frames", [0, 1, 2, 3], 2.0)
    assert medium["resized"] == [14 * h, 14 * w] and out["prompt"]["video_tokens"] == t * h * w // 4
    kv = out["kv"]
    assert kv["rows"] == out["prompt"]["tokens"] and kv["bytes_full"] % kv["rows"] == 0
    kept = sum(rows for layer in kv["rows_kept"] for rows in layer)
    all_rows = kv["rows"] * sum(len(layer) for layer in kv["rows_kept"])
    assert kv["bytes_kept"] * all_rows == kept * kv["bytes_full"]
    assert set(out["time_ms"]) == {"load", "media", "vision", "prefill", "first_token", "per_token"}
    assert SETTINGS <= set(out["settings"])


def test_presets_and_flags(demo_model):
    def settings(*flags):
        return run(["ask", "--model", demo_model, "hi", "--max-tokens", "1", "--json", *flags]).json()["settings"]

    default, paper = settings(), settings("--preset", "purekv-paper")
    assert settings("--method", "purekv") == default
    assert (default["budget"], default["score"], default["vnorm"], default["attention"]) == ("20%", "own+frame", "out",
                                                                                             "dense")
    assert (paper["score"], paper["row_reduce"], paper["gqa_reduce"], paper["vnorm"]) == ("clie", "sum", "mean", "l2")
    assert paper["attention"] == "spatial-temporal" and paper["sparse_from"] == 9  # round(0.71 x 12 layers)
    mixed = settings("--preset", "purekv-paper", "--score", "own", "--budget", "7", "--sparse-from", "3")
    assert (mixed["score"], mixed["budget"], mixed["budget_rows"], mixed["sparse_from"]) == ("own", 7, 7, 3)
    assert mixed["row_reduce"] == "sum"


def test_plain_answer_is_the_answer_and_a_newline(demo_model):
    flags = ["--model", demo_model, "hi", "--max-tokens", "6"]
    answer = run(["ask", *flags, "--json"]).json()["answer"]
    plain = run(["ask", *flags])
    assert (plain.code, plain.stdout) == (0, answer + "\n")
    assert all(name in plain.stderr for name in ("KV full", "KV kept", "KV peak", "first token", "per token"))
    assert run(["ask", *flags, "--quiet"]).stderr == ""


def test_a_lone_file_is_the_question_with_a_hint(demo_model, small_clip):
    flags = ["--model", demo_model, "--max-tokens", "1"]
    hint = "taken as the question"
    alone = run(["ask", *flags, small_clip])
    assert alone.code == 0 and hint in alone.stderr
    assert hint not in run(["ask", *flags, "--quiet", small_clip]).stderr
    assert hint not in run(["ask", *flags, small_clip, "hi"]).stderr + run(["ask", *flags, "no such file"]).stderr


@pytest.mark.parametrize("question", ["-", "--", "{}", "[a,b]", "++", "ask", "-5 degrees?", "a\nb", "x=%%"])
def test_any_text_is_a_question(demo_model, question):
    """The same ids on the command line, after `--`, and through standard input."""
    flags = ["ask", "--model", demo_model, "--max-tokens", "1", "--json", "--quiet"]
    piped = run([*flags, "-"], stdin=question).json()
    assert run([*flags, "-"], stdin=question + "\n").json()["prompt"] == piped["prompt"]
    if question not in {"-", "--"}:
        assert run([*flags, question]).json()["prompt"] == piped["prompt"]
        assert run([*flags, "--", question]).json()["prompt"] == piped["prompt"]


def test_the_demo_model_is_found_and_said_so(demo_model):
    plain = ["ask", "hi", "--max-tokens", "1"]
    assert "synthetic" in run(plain, env={"PUREKV_MODEL": ""}).stderr
    assert "synthetic" not in run([*plain, "--quiet"], env={"PUREKV_MODEL": ""}).stderr
    assert "synthetic" not in run(plain, env={"PUREKV_MODEL": str(demo_model)}).stderr
    one_error_line(run(plain, env={"PUREKV_MODEL": "/no/such/folder"}), 3)


def test_trace_holds_the_prompt_and_the_answer(demo_model, tmp_path):
    folder = tmp_path / "trace"
    out = run(["ask", "--model", demo_model, "hi", "--max-tokens", "2", "--json", "--trace", folder]).json()
    trace = load_trace(folder)
    assert len(trace["prompt_ids"]) == out["prompt"]["tokens"]
    assert list(trace["output_ids"]) == out["output_ids"]
    assert trace["segments"]["prefix"] == trace["segments"]["question_start"] == out["prompt"]["tokens"]


# --- tokenize, eval, bench ----------------------------------------------------------------------------------------

TEXTS = ["", "a cat", "naïve 北京 🙂", "line\nbreak\ttab", "<|im_start|>user", "\0\x7f"]


@pytest.mark.parametrize("special", [[], ["--special"]])
def test_tokenize_and_back(demo_model, special):
    lines = "".join(json.dumps(text) + "\n" for text in TEXTS)
    ids = run(["tokenize", "--model", demo_model, *special], stdin=lines)
    assert ids.code == 0 and len(ids.stdout.splitlines()) == len(TEXTS)
    back = run(["tokenize", "--model", demo_model, "--decode", *special], stdin=ids.stdout.removesuffix("\n"))
    assert [json.loads(line) for line in back.stdout.splitlines()] == TEXTS


@pytest.mark.parametrize("line", [b"", b"3", b"[1]", b'"a', b'"a" "b"', b"'a'", b'"\xff"', b'"\\ud800"'])
def test_lines_that_are_no_string(demo_model, line):
    result = run(["tokenize", "--model", demo_model], stdin=b'"good"\n' + line + b"\n")
    assert "line 2" in one_error_line(result, 3)


@pytest.mark.parametrize("line", ["", "3", '"a"', "[1", "[-1]", "[1.5]", "[2147483648]", '["1"]', "[[1]]", "[null]"])
def test_lines_that_are_no_ids(demo_model, line):
    assert "line 2" in one_error_line(run(["tokenize", "--model", demo_model, "--decode"], stdin=f"[1]\n{line}\n"), 3)


def test_tokenize_nothing(demo_model):
    result = run(["tokenize", "--model", demo_model])
    assert (result.code, result.stdout, result.stderr) == (0, "", "")


def make_manifest(folder, demo_model):
    """Three text questions; the first two have the model's own answer as the right one."""
    items = []
    for number, question in enumerate(["hi", "What is red?", "Why?"]):
        answer = run(["ask", "--model", demo_model, question, "--max-tokens", "3", "--method", "full", "--json"]).json()
        expected = f" {answer['answer']}\n" if number < 2 else "nothing of the kind"
        items.append({"id": str(number), "media": [], "question": question, "answer": expected, "task": f"t{number}"})
    path = folder / "manifest.json"
    path.write_text(json.dumps({"items": items}))
    return path


def test_eval_counts_resumes_and_shards(demo_model, tmp_path):
    manifest, out = make_manifest(tmp_path, demo_model), tmp_path / "out.jsonl"
    flags = ["eval", manifest, "--model", demo_model, "--max-tokens", "3", "--out", out, "--json"]
    run([*flags, "--settings", "full", "--shard", "2/2"]).json()
    assert [json.loads(line)["id"] for line in out.read_text().splitlines()] == ["1"]
    with out.open("a") as file:
        file.write('{"id": "0", "set')  # as an interrupted run leaves it
    table = run([*flags, "--settings", "full,random@50%"]).json()["exact_match"]
    records = [json.loads(line) for line in out.read_text().splitlines()]
    assert sorted((r["id"], r["setting"]) for r in records) == [(i, s) for i in "012" for s in ("full", "random@50%")]
    assert table["all"]["full"] == {"percent": pytest.approx(200 / 3), "correct": 2, "count": 3}
    assert table["t2"]["full"]["percent"] == 0
    report = run([*flags, "--report"])
    assert report.json()["exact_match"]["all"]["full"]["count"] == 3
    text = run([*flags[:-1], "--report"]).stdout
    assert re.search(r"(?m)^all +66\.7 ", text)


def test_eval_names_the_broken_item(demo_model, tmp_path):
    manifest = tmp_path / "manifest.jsonl"
    item = {"id": "x7", "media": ["absent.npy"], "question": "q", "answer": "a", "task": "t"}
    manifest.write_text(json.dumps(item) + "\n")
    assert "x7" in one_error_line(run(["eval", manifest, "--model", demo_model]), 3)
    for broken in ["", "3", "{}", '{"items": 3}', json.dumps({**item, "id": 3}), f"{json.dumps(item)}\n" * 2]:
        manifest.write_text(broken)
        one_error_line(run(["eval", manifest, "--model", demo_model]), 3)


def test_bench_object():
    shape = "--layers 2 --hidden 64 --heads 4 --kv-heads 2 --head-dim 16 --ffn 128".split()
    video = "--frames 2 --tokens-per-frame 6 --prefix 3 --question 4 --repeat 2 --json".split()
    for what in ("attention", "prefill", "decode", "vision"):
        out = run(["bench", what, *shape, *video]).json()
        assert out["what"] == what and out["shape"] == "custom"
        assert 0 < out["min_ms"] <= out["median_ms"] <= out["max_ms"]
        assert set(out) == {"what", "shape", "median_ms", "min_ms", "max_ms", "flops_useful", "bytes", "tflops",
                            "ceiling", "percent_of_ceiling", "kv"}


# --- interruption and outputs that cannot be written --------------------------------------------------------------

LONG = ["--ignore-eos", "--max-tokens", "1000000"]


def interrupt(process):
    """Sends Ctrl-C and returns exit code and outputs; the contract's 3 s with room for a slow machine."""
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=10)
    return process.returncode, out, err


def start(args):
    return subprocess.Popen([str(PROGRAM), *map(str, args)], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                            stderr=subprocess.PIPE)


def test_interrupt_while_answering(demo_model):
    process = start(["ask", "--model", demo_model, "Tell me everything.", *LONG])
    assert process.stdout.read(1)  # the answer has begun
    code, _, err = interrupt(process)
    assert code == 130 and err.decode().splitlines()[-1].startswith("purekv: error: ")


def test_interrupt_leaves_json_empty(demo_model):
    process = start(["ask", "--model", demo_model, "-", *LONG, "--json", "--quiet"])
    process.stdin.write(b"Tell me everything.")
    process.stdin.close()
    process.stdin = None
    with pytest.raises(subprocess.TimeoutExpired):
        process.wait(1)
    code, out, _ = interrupt(process)
    assert (code, out) == (130, b"")


def test_interrupt_while_waiting_for_a_question():
    process = start(["ask", "-"])
    with pytest.raises(subprocess.TimeoutExpired):
        process.wait(1)
    assert interrupt(process)[:2] == (130, b"")


def test_interrupt_in_work_that_never_looks():
    process = start("bench prefill --shape qwen2.5-0.5b --tokens 8192 --repeat 100000 --json".split())
    with pytest.raises(subprocess.TimeoutExpired):
        process.wait(1)
    assert interrupt(process)[:2] == (130, b"")


@pytest.mark.parametrize("arguments", [["--version"], ["--help"], ["ask", "--help"], ["completion", "bash"],
                                       ["ask", "hi", "--max-tokens", "2"], ["ask", "hi", "--max-tokens", "2", "--json"],
                                       ["inspect", "models/demo"]], ids=" ".join)
def test_full_disk(demo_model, arguments):
    with open("/dev/full", "wb") as full:
        done = subprocess.run([str(PROGRAM), *arguments], stdout=full, stderr=subprocess.PIPE, text=True, check=False,
                              stdin=subprocess.DEVNULL, cwd=demo_model.parents[1])
    assert done.returncode == 4
    assert done.stderr.splitlines()[-1].startswith("purekv: error: cannot write")


def test_trace_that_cannot_be_written(demo_model, tmp_path):
    (tmp_path / "file").write_text("")
    result = run(["ask", "--model", demo_model, "hi", "--max-tokens", "1", "--trace", tmp_path / "file" / "x"])
    one_error_line(result, 4)


def test_closed_pipe(demo_model):
    process = start(["ask", "--model", demo_model, "hi", *LONG])
    process.stdin.close()
    process.stdout.close()
    process.stderr.close()
    assert process.wait(60) in {-signal.SIGPIPE, 4}
