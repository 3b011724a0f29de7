"""Scores, kept rows and the answer over them against tools/reference_method.py, over knobs and media."""

import json
import shutil
import subprocess
import sys

import numpy as np
import pytest

import helpers
import traced
from traced import make_checkpoint, reference_method

LONG_QUESTION = "Which of the things that were seen first comes back at the end, and where does it go after that? Why?"
PAPER = ("--preset", "purekv-paper")
SCORES = {
    "paper": PAPER,
    "default": (),
    "own": ("--score", "own", "--window", "8"),
    "own-sum-mean-l2": ("--score", "own", "--row-reduce", "sum", "--gqa-reduce", "mean", "--vnorm", "l2"),
    "own-sum-max-off": ("--score", "own", "--row-reduce", "sum", "--vnorm", "off", "--window", "5"),
    "own-max-mean-l2": ("--score", "own", "--gqa-reduce", "mean", "--vnorm", "l2", "--window", "1"),
    "clie-0": ("--score", "clie", "--clie-layer", "0"),
    "clie-1": (*PAPER, "--clie-layer", "1", "--vnorm", "out"),
    "clie-2-off": (*PAPER, "--clie-layer", "2", "--vnorm", "off", "--attention", "dense"),
    "clie-3": (*PAPER, "--clie-layer", "3"),
    "clie-9": (*PAPER, "--clie-layer", "9"),
    "frame": ("--score", "frame"),
    "own+frame": ("--score", "own+frame"),
    "clie+frame-0": ("--score", "clie+frame", "--clie-layer", "0"),
    "clie+frame-1": ("--score", "clie+frame", "--clie-layer", "1"),
    "clie+frame-9": ("--score", "clie+frame", "--clie-layer", "9"),
    "frame-ignores": ("--score", "own+frame", "--row-reduce", "sum", "--gqa-reduce", "mean", "--vnorm", "off",
                      "--window", "2"),
    "frame-st": ("--score", "own+frame", "--attention", "spatial-temporal"),
    "frame-temporal": ("--score", "frame", "--attention", "temporal", "--sparse-from", "1"),
    "own-local": ("--score", "own", "--attention", "local", "--local-window", "5"),
    "random": ("--method", "random"),
    "random-own": ("--method", "random", "--score", "own", "--seed", "7"),
    "full": ("--method", "full"),
}
BUDGETS = ("0.1%", "1", "2", "3", "20%", "33.3%", "64", "90%", "99.9%", "100%", "100000")
EXTRAS = {
    "sinks": ("--sinks", "4"),
    "many-sinks": ("--sinks", "1000"),
    "video": ("--budget-base", "video"),
    "video-rows": ("--budget-base", "video", "--budget", "5"),
    "video-sinks": ("--budget-base", "video", "--sinks", "70"),
    "wide": ("--window", "100000"),
    "half": ("--window", "40"),
}


@pytest.fixture(scope="module")
def bench(tmp_path_factory, purekv_bin):
    return traced.Bench(tmp_path_factory.mktemp("method"))


def window_of(flags):
    return int(flags[flags.index("--window") + 1]) if "--window" in flags else None


@pytest.mark.parametrize("score", SCORES)
@pytest.mark.parametrize("media", traced.MEDIA)
def test_scores_over_media(bench, score, media):
    run = bench.ask(SCORES[score], media)
    run.judge(window_of(SCORES[score]))


@pytest.mark.parametrize("budget", BUDGETS)
@pytest.mark.parametrize("score", ["paper", "default", "clie+frame-1", "random-own"])
def test_budgets(bench, budget, score):
    bench.ask((*SCORES[score], "--budget", budget), "two").judge()


@pytest.mark.parametrize("extra", EXTRAS)
@pytest.mark.parametrize("score", ["paper", "own", "frame", "default", "random"])
def test_sinks_windows_and_the_base(bench, extra, score):
    flags = (*SCORES[score], *EXTRAS[extra])
    if score == "own" and extra in ("wide", "half"):
        flags = ("--score", "own", *EXTRAS[extra])
    for media in ("mixed", "text"):
        bench.ask(flags, media).judge(window_of(flags))


@pytest.mark.parametrize("score", ["paper", "own", "default", "frame"])
def test_a_question_longer_than_the_window(bench, score):
    run = bench.ask((*SCORES[score], "--budget", "70%"), "clip", question=LONG_QUESTION)
    run.judge(window_of(SCORES[score]))
    if score in ("default", "frame"):
        assert run.result["settings"]["window"] == 64


@pytest.mark.parametrize("model", ["alone", "group7", "bf16", "nested"])
@pytest.mark.parametrize("score", ["paper", "own-max-mean-l2", "clie+frame-0", "default"])
def test_head_groups_and_layouts(bench, model, score):
    bench.ask(SCORES[score], "two", model).judge(window_of(SCORES[score]))


@pytest.mark.parametrize("score", ["paper", "default"])
def test_a_cache_of_bfloat16(bench, score):
    bench.ask((*SCORES[score], "--dtype", "bf16"), "mixed").judge()


@pytest.mark.parametrize("score", ["paper", "own", "default", "clie+frame-1"])
def test_the_demo_model(bench, demo_model, score):
    run = bench.ask(SCORES[score], [bench.medium(0, (8, 112, 140))], demo_model, "What happens?", tokens=4)
    assert run.judge(window_of(SCORES[score])) == 12


def test_own_scores_are_clie_above_the_last_layer(bench):
    paper = ("--preset", "purekv-paper", "--attention", "dense")
    own = bench.ask((*paper, "--score", "own"))
    for layer in ("3", "4", "1000"):
        clie = bench.ask((*paper, "--clie-layer", layer))
        assert clie.keeps() == own.keeps()
        for name, array in own.trace.items():
            np.testing.assert_array_equal(array, clie.trace[name], err_msg=name)


def test_the_paper_preset_is_its_flags(bench):
    preset = bench.ask(PAPER)
    flags = bench.ask(("--score", "clie", "--clie-layer", "2", "--row-reduce", "sum", "--gqa-reduce", "mean", "--vnorm",
                       "l2", "--window", "32", "--attention", "spatial-temporal", "--sparse-from", "3"))
    assert preset.keeps() == flags.keeps()
    assert preset.result["output_ids"] == flags.result["output_ids"]


# ------------------------------------------------------------------------------------------------ ties
def zeroed(bench, name, parts):
    """The deep checkpoint with 0 in every tensor whose name holds one of `parts`."""
    folder = shutil.copytree(bench.model("deep"), bench.folder / name)
    path = folder / "model.safetensors"
    data = bytearray(path.read_bytes())
    size = int.from_bytes(data[:8], "little")
    for tensor, entry in json.loads(data[8:8 + size]).items():
        if any(part in tensor for part in parts):
            begin, end = (8 + size + at for at in entry["data_offsets"])
            data[begin:end] = bytes(end - begin)
    path.write_bytes(data)
    return folder


@pytest.fixture(scope="module")
def blind_model(bench):
    """Queries are 0: every row sees all keys alike, so window scores tie."""
    return zeroed(bench, "blind", [".q_proj."])


@pytest.fixture(scope="module")
def mute_model(bench):
    """Values are 0: every norm is, and with it every sum that a share is of."""
    return zeroed(bench, "mute", [".self_attn.v_proj."])


def test_all_scores_equal_keep_the_lowest_rows(bench, blind_model):
    for reduce in ("sum", "max"):
        run = bench.ask(("--score", "own", "--vnorm", "off", "--window", "6", "--row-reduce", reduce), "clip",
                        blind_model)
        run.judge(6)
        rows, kept = run.result["kv"]["rows"], run.result["settings"]["budget_rows"]
        lowest = [*range(kept - 6), *range(rows - 6, rows)]
        assert run.keeps() == [[lowest, lowest]] * 4


@pytest.mark.parametrize("score", ["frame", "own+frame", "clie+frame"])
@pytest.mark.parametrize("base", ["prompt", "video"])
def test_shares_of_nothing_are_nothing_and_keep_the_lowest_rows(bench, mute_model, score, base):
    run = bench.ask(("--score", score, "--budget", "80%", "--budget-base", base), "two", mute_model)
    run.judge()
    visual = np.concatenate([np.arange(clip["start"], clip["start"] + clip["frames"] * clip["tokens_per_frame"])
                             for clip in run.trace["segments"]["video"]])
    text = np.setdiff1d(np.arange(run.result["kv"]["rows"]), visual)
    room = run.result["settings"]["budget_rows"] - (len(text) if base == "prompt" else 0)
    assert 0 < room < len(visual)
    assert run.keeps() == [[sorted([*text, *visual[:room]])] * 2] * 4


def test_still_frames_tie_and_the_lower_row_stays(bench, blind_model):
    """Equal frames have equal values in layer 0, so that a cut goes through rows of equal score."""
    path = bench.folder / "still.npy"
    np.save(path, np.broadcast_to(np.random.default_rng(3).integers(0, 256, (56, 84, 3), np.uint8), (12, 56, 84, 3)))
    tied = 0
    for budget in ("50%", "60%", "70%"):
        run = bench.ask(("--score", "own", "--vnorm", "l2", "--budget", budget), [path], blind_model)
        run.judge()
        trace = run.trace
        for score, keep in zip(trace["score_00"], trace["keep_00"]):
            kept = np.isin(np.arange(len(score)), keep)
            worst = score[kept].min()
            equal = kept[score == worst]
            tied += not equal.all()
            assert (score[~kept] <= worst).all()
            assert equal.tolist() == sorted(equal.tolist(), reverse=True)
    assert tied, "no cut of these runs went through a tie"


# ------------------------------------------------------------------------------------------------ the judge itself
def spoil(folder, name, change):
    array = np.load(folder / f"{name}.npy")
    change(array)
    np.save(folder / f"{name}.npy", array)


def swap_kept_row(keep):
    keep[0, 0] = next(row for row in range(keep.max()) if row not in keep[0])
    keep[0].sort()


SPOILS = {
    "hidden_02": lambda x: x.__setitem__((5, slice(None)), x[5] * 1.01),
    "window_01": lambda x: x.__setitem__((0, 3), x[0].max() * 1.001),
    "vnorm_01": lambda x: x.__imul__(np.float32(1.001)),
    "self_00": lambda x: x.__setitem__((1, slice(None)), x[1, ::-1].copy()),
    "score_03": lambda x: x.__setitem__((0, 0), 0),
    "keep_02": swap_kept_row,
    "logits": lambda x: x.__setitem__((1, 0), x[1, 0] + 1),
}


@pytest.mark.parametrize("name", SPOILS)
def test_the_judge_sees_a_spoiled_file(bench, name):
    run = bench.ask()
    run.judge()
    spoil(run.folder, name, SPOILS[name])
    with pytest.raises(reference_method.Disagreement):
        run.judge()


def test_the_judge_sees_a_missing_and_a_stray_file(bench):
    run = bench.ask()
    (run.folder / "nov_01.npy").rename(run.folder / "nov_09.npy")
    with pytest.raises(reference_method.Disagreement, match="nov_09"):
        run.judge()
    (run.folder / "nov_09.npy").unlink()
    with pytest.raises(reference_method.Disagreement, match="missing"):
        run.judge()


def test_the_judge_from_the_command_line(bench, tmp_path):
    run = bench.ask()
    result = tmp_path / "result.json"
    result.write_text(json.dumps(run.result))
    tool = helpers.ROOT / "tools" / "reference_method.py"

    def call():
        return subprocess.run([sys.executable, tool, run.folder, run.model, result], capture_output=True, text=True,
                              check=False)
    done = call()
    assert (done.returncode, done.stdout) == (0, "4 layers agree\n"), done.stderr
    spoil(run.folder, "keep_00", swap_kept_row)
    done = call()
    assert done.returncode == 1 and done.stderr.startswith("disagreement: layer 0 head 0")


def test_recipes_are_what_the_tests_need():
    deep = make_checkpoint.config(traced.RECIPES["deep"])
    assert deep["num_attention_heads"] == 3 * deep["num_key_value_heads"] and deep["num_hidden_layers"] == 4
