"""A toolchain whose builds differ bit by bit: what is measured is the one engine that was kept."""

import json
import os
import signal
import time

import pytest

from robustdeploy.engine.ledger import Ledger
from robustdeploy.engine.manifest import read_manifest
from robustdeploy.engine.verify import verify_run

DICE = '''"""Dice: ONNX Runtime with a few random bytes beside each build, as tuned and timed builds differ."""

import os
import shutil
from dataclasses import dataclass

from robustdeploy.onboard.backends.onnxruntime import plugin as onnxruntime
from robustdeploy.onboard.types import Probe


@dataclass(frozen=True)
class Dice:
    """Two files per engine, of which one is never the same."""

    def probe(self):
        return Probe(True, "1.0")

    def compile(self, onnx, engine):
        shutil.copy(onnx, engine / "model.onnx")
        (engine / "timings.bin").write_bytes(os.urandom(64))

    def open(self, engine):
        return onnxruntime().open(engine)


plugin = Dice
'''


@pytest.fixture
def site(tmp_path):
    """A folder that looks like site-packages with the toolchain installed."""
    folder = tmp_path / "site"
    info = folder / "dice-0.1.dist-info"
    info.mkdir(parents=True)
    (folder / "dice.py").write_text(DICE)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: dice\nVersion: 0.1\n")
    (info / "entry_points.txt").write_text("[robustdeploy.backends]\ndice = dice:plugin\n")
    return folder


@pytest.fixture
def words(desk, site, spawn):
    """Call the command line where the toolchain is installed, to its end or as a process."""
    quick = (desk / "quick.yaml").read_text()
    (desk / "dice.yaml").write_text(quick.replace("name: quick", "name: dice\nbackend: {name: dice, version: ''}"))

    def call(*given, wait=True):
        process = spawn(desk, *given, "--target", "dice.yaml", PYTHONPATH=str(site))
        if not wait:
            return process
        _out, err = process.communicate(timeout=240)
        assert process.returncode == 0, err
        return err

    return call


def parts(run):
    """Parts of the measuring that were sealed, by name, with how often."""
    found = {}
    records = Ledger(run / "ledger.jsonl").records()
    (start,) = [r.n for r in records if r.event == "sealed" and r.data["folder"] == "engines/pruned/fp32@dice"]
    for record in records[start:]:
        if record.event == "part":
            found[record.data["part"]] = found.get(record.data["part"], 0) + 1
    return found


@pytest.mark.slow
@pytest.mark.exhaustive
def test_what_was_sealed_on_one_build_is_not_done_again_after_a_kill(desk, words):
    run = desk / "runs/tiny"
    words("export", "runs/tiny")
    process = words("evaluate", "runs/tiny", wait=False)
    sealed, until = run / "engines/pruned/fp32@dice/manifest.json", time.monotonic() + 120
    while time.monotonic() < until and process.poll() is None and not (sealed.exists() and parts(run)):
        time.sleep(0.005)
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    assert not (run / "boards/pruned/fp32@dice/manifest.json").exists()
    before, built = parts(run), read_manifest(sealed.parent).outputs
    assert before
    assert set(built) == {"engine/model.onnx", "engine/timings.bin"}
    said = words("evaluate", "runs/tiny")
    assert "engines/pruned/fp32@dice: done already" in said
    assert read_manifest(sealed.parent).outputs == built
    after = parts(run)
    assert set(after.values()) == {1}
    assert list(after)[: len(before)] == list(before)
    measured = read_manifest(run / "boards/pruned/fp32@dice")
    assert measured.inputs["engines/pruned/fp32@dice/engine/timings.bin"] == built["engine/timings.bin"]
    facts = json.loads((run / "boards/pruned/fp32@dice/facts.json").read_text())
    assert facts["engine"] == measured.facts["engine"]
    assert {file["name"] for file in facts["engine_files"]} == {"model.onnx", "timings.bin"}
    assert verify_run(run) == []
