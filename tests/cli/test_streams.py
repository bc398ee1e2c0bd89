"""Where words go and cannot arrive: a pipe whose reader has gone, a full disk, an encoding that lacks a character."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

FULL = Path("/dev/full")
COMMAND = [sys.executable, "-c", "from robustdeploy.cli import main; main()"]
TOLD = {"run": 0, "gate": 0, "help": 0}
WORDS = {
    "run": ["run", "tiny.yaml", "--name", "tiny", "--target", "quick.yaml"],
    "prune": ["prune", "tiny.yaml", "--name", "tiny"],
    "export": ["export", "tiny", "--target", "quick.yaml"],
    "evaluate": ["evaluate", "tiny", "--target", "quick.yaml"],
    "report": ["report", "tiny"],
    "gate": ["gate", "tiny"],
    "compare": ["compare", "tiny", "tiny"],
    "verify": ["verify", "tiny"],
    "doctor": ["doctor"],
    "ls": ["ls"],
    "validate": ["validate", "quick.yaml"],
    "schema": ["schema", "gate"],
    "help": ["prune", "--help"],
}


def ended(folder, words, stdout, stderr=subprocess.PIPE, **environment):
    """Run a command with a stdout of the test's own; its exit code and what it said on stderr."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", **environment}
    done = subprocess.run(
        [*COMMAND, *words], cwd=folder, env=environment, stdout=stdout, stderr=stderr, check=False, timeout=120
    )
    return done.returncode, (done.stderr or b"").decode(errors="replace")


def closed_pipe():
    """The writing end of a pipe that nobody reads any more."""
    reader, writer = os.pipe()
    os.close(reader)
    return writer


@pytest.mark.slow
@pytest.mark.parametrize("name", WORDS)
@pytest.mark.alike(4)
def test_a_reader_that_has_gone_changes_no_verdict_and_gives_no_traceback(chain, name):
    pipe = closed_pipe()
    try:
        code, said = ended(chain, WORDS[name], pipe)
    finally:
        os.close(pipe)
    assert "Traceback" not in said
    assert "Exception ignored" not in said
    assert "error" not in said
    assert code == TOLD.get(name, 141)


@pytest.mark.slow
@pytest.mark.parametrize("rule", [("at_least: 0.9999, on: value", 1), ("at_least: 0.01, n_at_least: 10000", 3)])
def test_a_verdict_keeps_its_code_when_nobody_reads_it(chain, tmp_path, rule):
    words, expected = rule
    (tmp_path / "rules.yaml").write_text(f"rules: [{{id: T-01, metric: clean_accuracy, {words}}}]\n")
    pipe = closed_pipe()
    code, said = ended(chain, ["gate", "tiny", "--rules", str(tmp_path / "rules.yaml")], pipe, stderr=pipe)
    os.close(pipe)
    assert (code, said) == (expected, "")


@pytest.mark.skipif(not FULL.exists(), reason="this system has no /dev/full")
@pytest.mark.slow
@pytest.mark.parametrize("name", ["gate", "ls", "compare", "report", "schema", "help"])
@pytest.mark.alike(2)
def test_a_full_disk_behind_stdout_is_the_environments_fault(chain, name):
    with FULL.open("wb") as full:
        code, said = ended(chain, WORDS[name], full)
        assert "Traceback" not in said
        assert "could not be written to stdout: No space left on device" in said
        assert code == 4
        code, _ = ended(chain, WORDS[name], subprocess.DEVNULL, stderr=full)
    assert code == 0


def test_an_error_is_told_by_its_code_where_it_cannot_be_told_in_words(tmp_path):
    pipe = closed_pipe()
    assert ended(tmp_path, ["gate", "nowhere", "--json"], pipe, stderr=pipe)[0] == 2
    assert ended(tmp_path, ["frobnicate"], pipe, stderr=pipe)[0] == 2
    os.close(pipe)


ENCODINGS = {
    "latin-1": {"PYTHONIOENCODING": "latin-1"},
    "ascii": {"PYTHONIOENCODING": "ascii"},
    "C": {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"},
}


@pytest.mark.slow
@pytest.mark.parametrize("encoding", ENCODINGS)
@pytest.mark.parametrize("name", ["ls", "report"])
@pytest.mark.alike(2)
def test_an_encoding_that_lacks_a_character_spells_it(chain, encoding, name):
    for more in ([], ["--json"]):
        done = subprocess.run(
            [*COMMAND, *WORDS[name], *more],
            cwd=chain,
            env={**os.environ, "OMP_NUM_THREADS": "1", **ENCODINGS[encoding]},
            capture_output=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        assert b"Traceback" not in done.stderr
        assert done.stdout.decode("latin-1" if encoding == "latin-1" else "ascii")
        if more:
            json.loads(done.stdout)


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_a_name_that_no_encoding_can_show_is_spelt_in_the_error(tmp_path, encoding):
    done = subprocess.run(
        [*COMMAND, "validate", b"\xff\xc3\xa9\xe2\x82\xac.yaml"],
        cwd=tmp_path,
        env={**os.environ, **ENCODINGS[encoding]},
        capture_output=True,
        check=False,
    )
    assert done.returncode == 2
    assert b"Traceback" not in done.stderr
    assert b"no such file" in done.stderr


def test_a_list_keeps_its_values_in_json_whatever_the_encoding(tmp_path):
    def listed(**environment):
        done = subprocess.run(
            [*COMMAND, "ls", "data", "--json"],
            cwd=tmp_path,
            env={**os.environ, **environment},
            capture_output=True,
            check=True,
        )
        return json.loads(done.stdout)

    assert listed(PYTHONIOENCODING="ascii") == listed(PYTHONIOENCODING="utf-8")


@pytest.mark.parametrize("closed", [1, 2])
def test_a_stream_that_the_caller_closed_is_no_error(tmp_path, closed):
    done = subprocess.run(
        ["bash", "-c", f'"$@" {closed}>&-', "bash", *COMMAND, "ls", "recipes"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0
    assert ("digits-resnet8" in done.stdout) == (closed == 2)
    assert done.stderr == ""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("after_s", "number"), [(1.0, signal.SIGINT), (1.0, signal.SIGTERM), (0.3, signal.SIGINT), (2.0, signal.SIGTERM)]
)
@pytest.mark.alike(2)
def test_an_interrupt_while_packages_load_is_no_traceback(tmp_path, after_s, number):
    child = subprocess.Popen(
        [*COMMAND, "doctor"], cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    time.sleep(after_s)
    child.send_signal(number)
    _, said = child.communicate(timeout=60)
    if child.returncode > 0:  # it may have ended by itself, or before Python knew of signals
        assert (child.returncode, "interrupted; the same command" in said) == (128 + number, True)
    assert "Traceback" not in said
