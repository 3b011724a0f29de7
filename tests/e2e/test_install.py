"""The installed tree: the program finds its demo model there, and find_package(purekv) builds the example."""

import os
import shutil
import subprocess

import pytest

from helpers import PROGRAM, ROOT

pytestmark = pytest.mark.skipif(not shutil.which("cmake"), reason="cmake is not here")


@pytest.fixture(scope="module")
def prefix(purekv_bin, tmp_path_factory):
    """A fresh prefix with everything installed from the build that PUREKV_BIN belongs to."""
    build = purekv_bin.resolve().parents[1]
    if not (build / "cmake_install.cmake").exists():
        pytest.skip(f"{build} is no build folder")
    folder = tmp_path_factory.mktemp("prefix")
    subprocess.run(["cmake", "--install", build, "--prefix", folder], check=True, capture_output=True)
    return folder


def without_sources():
    """An environment without a model of its own."""
    return {name: value for name, value in os.environ.items() if name != "PUREKV_MODEL"}


def test_installed_files(prefix):
    headers = {path.name for path in (prefix / "include" / "purekv").iterdir()}
    assert headers == {path.name for path in (ROOT / "include" / "purekv").iterdir()}
    assert (prefix / "share" / "purekv" / "demo" / "config.json").exists()
    assert [path.name for path in prefix.rglob("*.a")] == ["libpurekv.a"]


def test_installed_program_takes_its_own_demo_model(prefix):
    command = [prefix / "bin" / PROGRAM.name, "ask", "hi", "--max-tokens", "1", "--json", "--quiet"]
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=without_sources())
    assert f'"model":"{prefix}/share/purekv/demo"' in done.stdout


def test_example_builds_and_answers(prefix, small_clip, tmp_path):
    source = ROOT / "examples"
    assert len((source / "ask.cpp").read_text().splitlines()) < 30
    for command in (["cmake", "-S", source, "-B", tmp_path, f"-DCMAKE_PREFIX_PATH={prefix}"],
                    ["cmake", "--build", tmp_path]):
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
    model = prefix / "share" / "purekv" / "demo"
    question = "What moves?"
    answer = subprocess.run([tmp_path / "ask", small_clip, question, model], capture_output=True, text=True, check=True)
    program = subprocess.run([prefix / "bin" / PROGRAM.name, "ask", small_clip, question, "--model", model, "--quiet"],
                             capture_output=True, text=True, check=True)
    assert answer.stdout == program.stdout
    refused = subprocess.run([tmp_path / "ask", "/no/such/clip", question, model], capture_output=True, text=True,
                             check=False)
    assert refused.returncode == 3 and refused.stderr.startswith("error: ")
