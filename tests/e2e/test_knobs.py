"""Every flag is a variable and a line of a configuration file too; what is typed wins, unknown names are errors."""

import pytest

from helpers import one_error_line, run

pytestmark = pytest.mark.usefixtures("purekv_bin")


def settings(demo_model, *flags, env=None):
    return run(["ask", "--model", demo_model, "hi", "--max-tokens", "1", "--json", *flags], env=env).json()["settings"]


@pytest.fixture
def config(tmp_path):
    """Writes a configuration file and returns its path."""
    def write(text):
        path = tmp_path / "purekv.toml"
        path.write_text(text)
        return path
    return write


def test_a_variable_is_a_flag(demo_model):
    env = {"PUREKV_BUDGET": "7", "PUREKV_TOP_K": "3", "PUREKV_IGNORE_EOS": "1", "PUREKV_BIN_OF_OTHERS": "x"}
    given = settings(demo_model, env=env)
    assert (given["budget"], given["top_k"], given["ignore_eos"]) == (7, 3, True)
    assert settings(demo_model, "--budget", "9", env=env)["budget"] == 9
    assert settings(demo_model, env={"PUREKV_BUDGET": "", "PUREKV_IGNORE_EOS": "false"})["budget"] == "20%"


def test_a_file_holds_flags(demo_model, config):
    path = config('# mine\nbudget = "10%"\nmax_pixels = 50176\nclie-layer = 1\nignore-eos = true\nframes = 4\n')
    given = settings(demo_model, "--config", path)
    assert (given["budget"], given["max_pixels"], given["clie_layer"], given["ignore_eos"]) == ("10%", 50176, 1, True)
    assert settings(demo_model, env={"PUREKV_CONFIG": str(path)})["budget"] == "10%"
    assert settings(demo_model, "--config", path, env={"PUREKV_BUDGET": "30%"})["budget"] == "30%"
    assert settings(demo_model, "--config", path, "--budget", "50%")["budget"] == "50%"


def test_one_file_serves_every_command(demo_model, config):
    path = config('budget = "10%"\nbatch = 2\n')
    done = run(["tokenize", "--model", demo_model, "--config", path], stdin='"a"\n')
    assert done.code == 0, done.stderr


@pytest.mark.parametrize("text", ["bugdet = 5\n", "[ask]\nbudget = 5\n", "budget = [1, 2]\n", "help = true\n",
                                  "budget = 5\nbudget = 6\n", "json = maybe\n", "budget = 0\n"],
                         ids=["unknown", "section", "list", "no-knob", "twice", "no-switch", "bad-value"])
def test_files_that_are_wrong(config, text):
    path = config(text)
    assert str(path) in one_error_line(run(["ask", "--config", path, "hi"]), 2)


def test_a_bad_variable_is_named():
    assert "PUREKV_BUDGET" in one_error_line(run(["ask", "hi"], env={"PUREKV_BUDGET": "0%"}), 2)
    assert "PUREKV_JSON" in one_error_line(run(["ask", "hi"], env={"PUREKV_JSON": "maybe"}), 2)


def test_a_file_that_is_missing(tmp_path):
    one_error_line(run(["ask", "--config", tmp_path / "absent.toml", "hi"]), 3)
