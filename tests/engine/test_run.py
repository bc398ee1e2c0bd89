import json
import os
import signal
import subprocess
import sys

import pytest

from robustdeploy.core.load import resolved_yaml
from robustdeploy.core.recipe import Budget, Choice, Evaluate, Recipe, Train
from robustdeploy.engine.manifest import read_manifest
from robustdeploy.engine.run import Run, holder, training_fingerprint, verify_run
from robustdeploy.errors import ArtifactError, StorageError, UsageError

RECIPE = Recipe(name="tiny", budget=Budget(ops=0.5))
GATED = RECIPE.model_copy(update={"evaluate": Evaluate(limit=7)})


@pytest.fixture
def runs(tmp_path):
    return tmp_path / "runs"


@pytest.fixture
def run(runs):
    return Run.for_recipe(runs, RECIPE)


def _events(run):
    return [record.event for record in run.ledger.records()]


def test_a_run_is_named_after_the_recipe_and_what_decides_the_training(run, runs):
    assert run.name == f"tiny-{training_fingerprint(RECIPE)[:8]}"
    assert (run.root / "recipe.yaml").read_text() == resolved_yaml(RECIPE)
    assert (runs / "latest").resolve() == run.root
    assert _events(run) == ["recipe"]


@pytest.mark.parametrize(
    ("change", "same"),
    [
        ({"description": "other"}, True),
        ({"evaluate": Evaluate(limit=3)}, True),
        ({"train": Train(device="cpu", checkpoint_every_s=1)}, True),
        ({"train": Train(epochs=3)}, False),
        ({"net": Choice(name="x", options={"width": 2})}, False),
        ({"budget": Budget(ops=0.25)}, False),
        ({"seed": 1}, False),
        ({"baseline": "deploy"}, True),  # where the dense net is measured
        ({"baseline": False}, False),
    ],
)
def test_the_training_fingerprint_covers_what_decides_the_net(change, same):
    assert (training_fingerprint(RECIPE.model_copy(update=change)) == training_fingerprint(RECIPE)) is same


def test_the_same_recipe_reopens_its_run_and_changes_nothing(run, runs):
    again = Run.for_recipe(runs, RECIPE)
    assert again == run
    assert _events(run) == ["recipe"]


def test_another_evaluation_is_rewritten_and_entered(run, runs):
    again = Run.for_recipe(runs, GATED)
    assert again.root == run.root
    assert _events(run) == ["recipe", "recipe"]
    assert Run.open(run.root, runs).recipe == GATED
    assert verify_run(run.root) == []


def test_a_name_that_another_recipe_holds_is_refused(runs):
    Run.for_recipe(runs, RECIPE, "mine")
    with pytest.raises(UsageError, match=r"mine holds another recipe \('tiny', fingerprint .*choose another run name"):
        Run.for_recipe(runs, RECIPE.model_copy(update={"seed": 3}), "mine")
    assert Run.for_recipe(runs, GATED, "mine").recipe == GATED


@pytest.mark.parametrize("name", ["latest", "../x", "a/b", "", "-x", ".x"])
def test_names_that_are_no_folder_names_are_refused(runs, name):
    if name:
        with pytest.raises(UsageError, match="cannot name a run"):
            Run.for_recipe(runs, RECIPE, name)
    else:
        assert Run.for_recipe(runs, RECIPE, name).name.startswith("tiny-")


def test_open_takes_the_latest_a_folder_or_a_name(run, runs):
    other = Run.for_recipe(runs, RECIPE, "other")
    assert Run.open(None, runs) == other
    assert Run.open(run.root, runs) == run
    assert Run.open(other.root.relative_to(runs), runs) == other


def test_open_tells_what_is_no_run(runs, tmp_path):
    with pytest.raises(UsageError, match=r"there is no run in .* yet"):
        Run.open(None, runs)
    with pytest.raises(UsageError, match="is no run folder"):
        Run.open(tmp_path, runs)
    with pytest.raises(UsageError, match="does not exist"):
        Run.open(tmp_path / "gone", runs)


def test_a_file_in_the_way_is_told(tmp_path):
    (tmp_path / "runs").write_text("")
    with pytest.raises(UsageError, match="in the way"):
        Run.for_recipe(tmp_path / "runs", RECIPE)


def test_a_real_folder_named_latest_is_left_alone(runs):
    (runs / "latest").mkdir(parents=True)
    with pytest.raises(UsageError, match="is no link"):
        Run.for_recipe(runs, RECIPE)


HOLD = (
    "import sys, time; from pathlib import Path; from robustdeploy.engine.run import Run\n"
    "with Run.open(Path(sys.argv[1]), Path('.')).lock():\n    print('held', flush=True); time.sleep(60)"
)


def test_the_lock_names_its_holder_and_is_freed_by_a_kill(run):
    with subprocess.Popen([sys.executable, "-c", HOLD, str(run.root)], stdout=subprocess.PIPE) as holder:
        assert holder.stdout.readline() == b"held\n"
        with pytest.raises(StorageError, match=rf"in use by process {holder.pid};"), run.lock():
            pass
        os.kill(holder.pid, signal.SIGKILL)
    with run.lock():
        assert (run.root / ".lock").read_text() == str(os.getpid())
    with run.lock():
        pass


@pytest.fixture
def stage(run):
    return run.slot("train", "nets/pruned", {"data": "ab" * 32}, {"epochs": 3, "task": Choice(name="fastat")})


def _seal(stage):
    folder = stage.begin()
    (folder / "checkpoints").mkdir(exist_ok=True)
    (folder / "model.bin").write_bytes(b"x" * 100)
    (folder / "checkpoints" / "a").write_bytes(b"y")
    return stage.seal([folder / "model.bin", folder / "checkpoints" / "a"], {"macs": 12})


def test_a_sealed_stage_is_known_again(run, stage):
    assert stage.sealed() is None
    manifest = _seal(stage)
    again = run.slot("train", "nets/pruned", {"data": "ab" * 32}, {"task": "fastat", "epochs": 3})
    assert again.sealed() == manifest == read_manifest(stage.folder)
    assert sorted(manifest.outputs) == ["checkpoints/a", "model.bin"]
    assert manifest.facts == {"macs": 12}
    assert manifest.versions["python"].startswith("3.")
    assert manifest.duration_s >= 0
    assert verify_run(run.root) == []


@pytest.mark.parametrize("change", [{"parameters": {"epochs": 4}}, {"inputs": {"data": "cd" * 32}}, {"name": "dense"}])
def test_a_seal_for_other_work_does_not_count(run, stage, change):
    _seal(stage)
    other = {"name": "train", "folder": "nets/pruned", "inputs": stage.inputs, "parameters": stage.parameters} | change
    again = run.slot(**other)
    assert again.sealed() is None
    again.begin()
    assert stage.sealed() is None
    assert verify_run(run.root) == []


def _remove(path):
    path.unlink()


def _truncate(path):
    os.truncate(path, 50)


def _edit(path):
    path.write_bytes(b"z" * 100)


@pytest.mark.parametrize(("damage", "word"), [(_remove, "missing"), (_truncate, "changed"), (_edit, "changed")])
def test_a_damaged_output_is_told_with_the_way_out(run, stage, damage, word):
    manifest = _seal(stage)
    damage(stage.folder / "model.bin")
    with pytest.raises(ArtifactError) as caught:
        stage.sealed()
    text = str(caught.value)
    assert f"model.bin {'is' if word == 'missing' else 'was'} {word}" in text
    assert manifest.outputs["model.bin"][:12] in text
    assert "with --force makes it again" in text
    assert len(verify_run(run.root)) == 1
    stage.clear()
    assert list(stage.folder.iterdir()) == []
    assert stage.sealed() is None
    assert verify_run(run.root) == []


def test_a_manifest_that_is_no_manifest_is_told(stage):
    _seal(stage)
    (stage.folder / "manifest.json").write_text("{")
    with pytest.raises(ArtifactError, match="is not a manifest"):
        stage.sealed()


def test_an_output_that_leads_out_of_the_folder_is_told(stage, tmp_path):
    manifest = _seal(stage)
    path = stage.folder / "manifest.json"
    content = manifest.model_dump() | {"outputs": {"../recipe.yaml": "0" * 64}}
    path.write_text(json.dumps(content))
    with pytest.raises(ArtifactError, match="outside"):
        stage.sealed()


def test_only_files_of_the_stage_can_be_sealed(stage, tmp_path):
    (tmp_path / "other").write_text("x")
    with pytest.raises(ValueError, match="is not in the subpath"):
        stage.seal([tmp_path / "other"], {})
    assert stage.sealed() is None


@pytest.mark.parametrize(
    ("damage", "sentence"),
    [
        (lambda run: (run.root / "recipe.yaml").write_text("name: t"), "recipe.yaml was changed"),
        (lambda run: (run.root / "recipe.yaml").unlink(), "recipe.yaml is missing"),
        (lambda run: (run.root / "ledger.jsonl").unlink(), "ledger.jsonl is missing or empty"),
        (lambda run: _edit(run.root / "ledger.jsonl"), "missing or empty"),
        (
            lambda run: (run.root / "nets/pruned/manifest.json").unlink(),
            "manifest.json is missing, though the ledger has it",
        ),
        (lambda run: _touch_manifest(run.root / "nets/pruned/manifest.json"), "manifest.json was changed"),
        (lambda run: _drop_last_line(run.root / "ledger.jsonl"), "manifest.json is not in the ledger"),
        (lambda run: (run.root / "ledger.jsonl").write_text("x\n"), "line 1 is not a ledger's line"),
    ],
)
def test_verify_tells_every_kind_of_damage(run, stage, damage, sentence):
    _seal(stage)
    assert verify_run(run.root) == []
    damage(run)
    assert any(sentence in problem for problem in verify_run(run.root))


def _touch_manifest(path):
    path.write_text(path.read_text().replace('"macs": 12', '"macs": 11'))


def _drop_last_line(path):
    path.write_text("".join(path.read_text().splitlines(keepends=True)[:-1]))


def test_clear_follows_no_link(run, stage, tmp_path):
    precious = tmp_path / "precious"
    precious.mkdir()
    (precious / "file").write_text("keep")
    (run.root / "nets").mkdir()
    (run.root / "nets/pruned").symlink_to(precious)
    with pytest.raises(UsageError, match="through a link"):
        stage.clear()
    assert (precious / "file").exists()
    (run.root / "nets/pruned").unlink()
    (stage.folder / "link").symlink_to(precious)
    (stage.folder / "sub").mkdir()
    (stage.folder / "sub" / "link").symlink_to(precious)
    stage.clear()
    assert (precious / "file").read_text() == "keep"
    assert list(stage.folder.iterdir()) == []


def test_clear_of_a_stage_that_never_ran_does_nothing(run, stage):
    stage.clear()
    assert _events(run) == ["recipe"]


LINKS = {
    "a link": lambda path, other: path.symlink_to(other),
    "a hard link": lambda path, other: path.hardlink_to(other),
    "a link to nothing": lambda path, other: path.symlink_to(other.with_name("new")),
    "a pipe": lambda path, other: os.mkfifo(path),
    "a folder": lambda path, other: path.mkdir(),
}


@pytest.mark.parametrize("kind", LINKS)
@pytest.mark.parametrize("name", [".lock", "ledger.jsonl"])
def test_what_a_sent_run_has_in_place_of_its_own_files_is_not_written_to(run, tmp_path, name, kind):
    """The lock is cut to nothing before the number of a process is written; through a link, that is another file."""
    mine = tmp_path / "mine"
    mine.write_text(run.ledger.path.read_text() + "a line that is torn")
    before = mine.read_bytes()
    (run.root / name).unlink(missing_ok=True)
    LINKS[kind](run.root / name, mine)
    with pytest.raises(ArtifactError, match=r"nothing is written there|is no file"), run.lock():
        run.ledger.append("x")
    assert mine.read_bytes() == before
    assert not (tmp_path / "new").exists()
    assert holder(run.root) is None


def test_a_run_of_an_earlier_version_is_refused_with_what_to_do(run, runs):
    (run.root / "train").mkdir()
    (run.root / "train" / "net.json").write_text("{}")
    again = f"robustdeploy evaluate {run.root / 'train'} --recipe {run.root / 'recipe.yaml'}"
    for opening in (lambda: Run.open(run.root, runs), lambda: Run.for_recipe(runs, RECIPE)):
        with pytest.raises(UsageError, match="a run of an earlier version") as refused:
            opening()
        assert again in str(refused.value)
    (run.root / "nets").mkdir()  # of this version, whatever else lies there
    assert Run.open(run.root, runs).root == run.root
