"""Every attention pattern against the mask of docs/method.md: rows after each layer, from dense attention with a mask."""

import numpy as np
import pytest

import traced
from traced import reference_method

PATTERNS = {
    "dense": (),
    "spatial": (),
    "temporal": (),
    "spatial-temporal": (),
    "local": ("--local-window", "7"),
    "local-1": ("--local-window", "1"),
    "local-all": ("--local-window", "100000"),
    "atrous": ("--atrous-rate", "5"),
    "atrous-1": ("--atrous-rate", "1"),
    "atrous-all": ("--atrous-rate", "100000"),
}


@pytest.fixture(scope="module")
def bench(tmp_path_factory, purekv_bin):
    return traced.Bench(tmp_path_factory.mktemp("masks"))


def flags_of(pattern, *more):
    name = pattern if pattern.startswith("spatial-") else pattern.split("-")[0]
    return ("--attention", name, *PATTERNS[pattern], *more)


@pytest.mark.parametrize("pattern", PATTERNS)
@pytest.mark.parametrize("media", traced.MEDIA)
def test_patterns_over_media(bench, pattern, media):
    bench.ask(flags_of(pattern, "--method", "full"), media, tokens=2).judge()


# Frames of 1, 4, 9, 16, 63, 65, 169 and 180 cells: around and across tiles of 64 keys.
@pytest.mark.parametrize("grid", [(1, 1), (2, 2), (3, 3), (4, 4), (7, 9), (5, 13), (13, 13), (10, 18)])
@pytest.mark.parametrize("pattern", ["spatial", "temporal", "spatial-temporal", "local", "atrous"])
def test_patterns_over_frame_sizes(bench, pattern, grid):
    media = [bench.medium(0, (8, 28 * grid[0], 28 * grid[1]))]
    bench.ask(flags_of(pattern, "--method", "full"), media, "alone", tokens=1).judge()


@pytest.mark.parametrize("system", ["", "a", "A system message that puts the first frame behind a tile of keys."])
@pytest.mark.parametrize("pattern", ["spatial-temporal", "local", "atrous"])
def test_patterns_over_prefixes(bench, pattern, system):
    bench.ask(flags_of(pattern, "--system", system), "mixed", tokens=1).judge()


@pytest.mark.parametrize("first", ["0", "1", "3", "4", "1000"])
def test_patterns_begin_at_their_layer(bench, first):
    run = bench.ask(flags_of("temporal", "--sparse-from", first, "--method", "full"))
    run.judge()
    dense = bench.ask(("--method", "full")).trace
    for layer in range(min(int(first), 4) + 1):
        np.testing.assert_array_equal(run.trace[f"hidden_{layer:02}"], dense[f"hidden_{layer:02}"])
    if int(first) < 4:
        assert not np.array_equal(run.trace["hidden_04"], dense["hidden_04"])


@pytest.mark.parametrize("frames", [2, 4])
def test_two_frames_are_dense_under_spatial_temporal(bench, frames):
    media = [bench.medium(0, (frames, 84, 112))]
    sparse = bench.ask(("--attention", "spatial-temporal", "--method", "full"), media).trace
    dense = bench.ask(("--method", "full"), media).trace
    for layer in range(5):
        a, b = sparse[f"hidden_{layer:02}"], dense[f"hidden_{layer:02}"]
        assert np.abs(a - b).max() <= 1e-5 * np.abs(b).max()


# ------------------------------------------------------------------------------------------------ the reference's mask
def mask(name, table, **settings):
    seen = table.mask({"attention": name, "sparse_from": 0, **settings}, 0)
    return seen(np.arange(table.rows))


def table_of(prefix, frames, grid, question):
    cells = grid[0] * grid[1]
    video = [{"start": prefix, "frames": frames, "grid_h": grid[0], "grid_w": grid[1], "clip": 0}]
    end = prefix + frames * cells
    return reference_method.Table({"question_start": end, "video": video}, end + question)


@pytest.mark.parametrize("prefix", [0, 1, 35])
@pytest.mark.parametrize("frames", [1, 2, 3, 8])
@pytest.mark.parametrize("grid", [(1, 1), (2, 3), (13, 13)])
def test_pair_counts(prefix, frames, grid):
    table, cells = table_of(prefix, frames, grid, 4), grid[0] * grid[1]
    video = np.ix_(table.visual, table.visual)
    spatial, temporal, union = (mask(name, table) for name in ("spatial", "temporal", "spatial-temporal"))
    np.testing.assert_array_equal(union, spatial | temporal)
    assert (union & ~spatial).sum() == max(0, frames - 2) * cells
    assert spatial[video].sum() == frames * cells * (cells + 1) // 2 + (frames - 1) * cells ** 2
    dense = mask("dense", table)
    if frames <= 2:
        np.testing.assert_array_equal(union, dense)
    for seen in (spatial, temporal, union, mask("local", table, local_window=3), mask("atrous", table, atrous_rate=3)):
        np.testing.assert_array_equal(seen[table.text], dense[table.text])
        np.testing.assert_array_equal(seen[:, table.text], dense[:, table.text])
        assert seen.diagonal().all()
