"""What a budget may and may not change: bits of the first token, kept rows over schedules, bytes."""

import numpy as np
import pytest

import traced

METHODS = {
    "default": (),
    "paper": ("--preset", "purekv-paper"),
    "own": ("--score", "own"),
    "frame": ("--score", "frame"),
    "clie+frame": ("--score", "clie+frame", "--clie-layer", "1"),
    "random": ("--method", "random"),
    "video": ("--budget-base", "video"),
}
ATTENTION = {"dense": (), "st": ("--attention", "spatial-temporal"),
             "atrous": ("--attention", "atrous", "--atrous-rate", "3", "--sparse-from", "2")}


@pytest.fixture(scope="module")
def bench(tmp_path_factory, purekv_bin):
    return traced.Bench(tmp_path_factory.mktemp("budget"))


@pytest.fixture(scope="module")
def full(bench):
    """A function: the trace of the whole cache under an attention."""
    made = {}

    def run(attention, media="mixed"):
        if (attention, media) not in made:
            made[attention, media] = bench.ask(("--method", "full", *ATTENTION[attention]), media, tokens=8).trace
        return made[attention, media]

    return run


@pytest.mark.parametrize("media", ["mixed", "text"])
@pytest.mark.parametrize("attention", ATTENTION)
@pytest.mark.parametrize("method", METHODS)
def test_a_whole_budget_is_full_bit_for_bit(bench, full, method, attention, media):
    # The preset's own attention counts here too: the flag after it wins.
    attend = ATTENTION[attention] or ("--attention", "dense")
    if method == "paper" and attention == "st":
        attend = (*attend, "--sparse-from", "0")
    for budget in ("100%", "100000"):
        run = bench.ask((*METHODS[method], *attend, "--budget", budget), media, tokens=8)
        expected = full(attention, media)
        assert run.trace["logits"].tobytes() == expected["logits"].tobytes()
        assert sorted(run.trace) == sorted(expected)


@pytest.mark.parametrize("budget", ["1", "0.1%", "3%", "20%", "50%", "99%"])
@pytest.mark.parametrize("method", METHODS)
def test_the_first_token_is_the_same_bits_at_every_budget(bench, full, method, budget):
    run = bench.ask((*METHODS[method], "--attention", "dense", "--budget", budget), "mixed", tokens=2)
    assert run.trace["logits"][0].tobytes() == full("dense")["logits"][0].tobytes()
    assert all(max(rows) == run.result["kv"]["rows"] - 1 for layer in run.keeps() for rows in layer)


@pytest.mark.parametrize("method", METHODS)
def test_schedules_keep_the_same_rows(bench, method):
    run = bench.ask(METHODS[method], "two")
    for flags in (*(("--prefill-chunk", size) for size in ("1", "7", "4096")),
                  *(("--threads", count) for count in ("1", "2", "3"))):
        other = bench.ask((*METHODS[method], *flags), "two")
        traced.same_sets(run, other)
        assert other.result["output_ids"] == run.result["output_ids"]


@pytest.mark.parametrize("method", METHODS)
def test_a_trace_changes_nothing(bench, method):
    run = bench.ask(METHODS[method], "two", tokens=8)
    plain = bench.json(METHODS[method], "two", run.model, tokens=8)
    assert plain["output_ids"] == run.result["output_ids"]
    assert plain["kv"] == run.result["kv"]


def test_a_trace_leaves_nothing_of_an_earlier_one(bench, tmp_path):
    folder = tmp_path / "trace"
    (folder / "mine").mkdir(parents=True)
    for name in ("notes.txt", "score.npy", "score_1x.npy", "other_01.npy"):
        (folder / name).write_text("kept")
    bench.ask(folder=folder)
    assert (folder / "score_03.npy").exists()
    bench.ask(("--method", "full"), "text", "alone", folder=folder)
    names = {path.name for path in folder.iterdir()}
    assert {"notes.txt", "score.npy", "score_1x.npy", "other_01.npy", "mine"} <= names
    assert not names & {f"{name}_{layer:02}.npy" for name in traced.reference_method.ARRAYS for layer in range(4)}
    assert "hidden_03.npy" not in names
    assert np.load(folder / "vision.npy").shape == (0, 64) and np.load(folder / "grid_thw.npy").shape == (0, 3)


def test_arrays_have_the_shapes_of_the_contract(bench):
    run = bench.ask((), "two")
    trace, settings = run.trace, run.result["settings"]
    rows, window = run.result["kv"]["rows"], settings["window"]
    assert trace["prompt_ids"].shape == (rows,) and trace["prompt_ids"].dtype == np.int32
    assert trace["position_ids"].shape == (3, rows) and trace["position_ids"].dtype == np.int32
    assert trace["pixel_values"].shape == (4 * run.result["prompt"]["video_tokens"], 1176)
    assert trace["vision"].shape == (run.result["prompt"]["video_tokens"], 96)
    assert trace["logits"].shape == (3, 320) and trace["output_ids"].shape == (3,)
    for name in traced.reference_method.ARRAYS:
        for layer in range(4):
            assert trace[f"{name}_{layer:02}"].shape == (2, rows - window)
    text = np.ones(rows, bool)
    for clip in trace["segments"]["video"]:
        assert clip["tokens_per_frame"] == clip["grid_h"] * clip["grid_w"]
        text[clip["start"]:clip["start"] + clip["frames"] * clip["tokens_per_frame"]] = False
    for name in ("local", "self", "nov"):
        assert not trace[f"{name}_00"][:, text[:rows - window]].any()
    first = trace["segments"]["video"][0]
    assert trace["segments"]["prefix"] == first["start"] == np.flatnonzero(~text)[0]
    assert trace["segments"]["question_start"] == np.flatnonzero(~text)[-1] + 1


@pytest.mark.parametrize("method", ["default", "paper"])
def test_peak_memory_of_a_long_prompt(bench, method):
    """At 20 %: at most a fifth of the whole cache and one layer's scratch, the answer's rows included."""
    paths = bench.media([(250, 224, 224)])
    kv = bench.json(METHODS[method], paths, bench.model("long"), "x" * 192, tokens=40)["kv"]
    assert kv["rows"] >= 8192
    layer = kv["bytes_full"] // 12
    assert kv["bytes_kept"] <= 0.2 * kv["bytes_full"]
    assert kv["bytes_kept"] + layer <= kv["bytes_peak"] <= 0.2 * kv["bytes_full"] + layer
