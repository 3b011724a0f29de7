"""Fixtures of the end-to-end tests. PUREKV_BIN names the program; without it, the release build's."""

import numpy
import pytest

import helpers


@pytest.fixture(scope="session")
def purekv_bin():
    """The program as a path."""
    if not helpers.PROGRAM.exists():
        pytest.skip(f"{helpers.PROGRAM} is not built; build it or set PUREKV_BIN")
    return helpers.PROGRAM


@pytest.fixture(scope="session")
def demo_model():
    """The shipped checkpoint's folder."""
    return helpers.ROOT / "models" / "demo"


@pytest.fixture(scope="session")
def small_clip(tmp_path_factory):
    """A `.npy` medium of four small frames."""
    path = tmp_path_factory.mktemp("clip") / "small.npy"
    frames = numpy.random.default_rng(7).integers(0, 256, (4, 56, 84, 3), dtype=numpy.uint8)
    numpy.save(path, frames)
    return path
