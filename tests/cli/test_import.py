"""A net that is trained already: evaluate makes a run of it, and the rest of the chain follows."""

import json
import shutil

import numpy as np
import pytest

from robustdeploy import api
from robustdeploy.engine.run import Run, verify_run
from robustdeploy.errors import ArtifactError

pytestmark = pytest.mark.slow


@pytest.fixture
def stored(chain, tmp_path):
    """A folder beside nothing of the run but its net: ``given/`` with net.json, model.safetensors and recipe.yaml."""
    folder = tmp_path / "given"
    folder.mkdir()
    for name in ("nets/pruned/net.json", "nets/pruned/model.safetensors", "recipe.yaml"):
        shutil.copy(chain / "runs/tiny" / name, folder)
    shutil.copy(chain / "quick.yaml", tmp_path)
    return folder


def outcomes(run):
    (path,) = run.glob("boards/*/fp32@quick/outcomes.npz")
    with np.load(path, allow_pickle=False) as held:
        return dict(held)


def test_a_stored_net_is_evaluated_as_in_the_run_that_trained_it(stored, chain, tmp_path, command):
    done = command(tmp_path, "evaluate", "given", "--target", "quick.yaml")
    assert done.code == 0, done.err
    assert "of 0.2" in done.err or "MACs (0.2" in done.err
    assert "next: robustdeploy report runs/given" in done.out
    run, theirs = tmp_path / "runs/given", outcomes(chain / "runs/tiny")
    ours = outcomes(run)
    assert ours
    for name in ours:
        np.testing.assert_array_equal(ours[name], theirs[name], err_msg=name)
    assert not [name for name in ours if "dense" in name]
    places = (run / "nets/imported", chain / "runs/tiny/nets/pruned")
    weights = [(place / "model.safetensors").read_bytes() for place in places]
    assert weights[0] == weights[1] == (stored / "model.safetensors").read_bytes()
    assert verify_run(run) == []

    report = command(tmp_path, "report", "runs/given", "--json").document
    trained = json.loads((chain / "runs/tiny/report.json").read_text())
    for part in ("macs", "dense_macs", "params", "dense_params", "memory_bytes", "ops_target"):
        assert report["budget"][part] == trained["budget"][part]
    assert report["figures"]["channels"] == trained["figures"]["channels"]
    assert "trained elsewhere" in report["data"]["imported"]
    assert command(tmp_path, "gate", "runs/given").code == 0

    again = command(tmp_path, "evaluate", "given", "--target", "quick.yaml")
    assert again.code == 0
    assert again.err.count("skipped") == 5


def test_another_net_in_the_folder_is_another_evaluation(stored, chain, tmp_path, command):
    run = api.import_net(stored, runs=tmp_path / "runs")
    before = (run.root / "nets/imported/model.safetensors").read_bytes()
    for name in ("net.json", "model.safetensors"):
        shutil.copy(chain / "runs/tiny/nets/dense" / name, stored)
    api.import_net(stored, runs=tmp_path / "runs")
    assert (run.root / "nets/imported/model.safetensors").read_bytes() != before
    assert Run.open(run.root, tmp_path).sealed("nets/imported").facts["channels"] == []


def test_a_damaged_net_is_not_adopted(stored, tmp_path):
    path = stored / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    with pytest.raises(ArtifactError, match="truncated, edited or replaced"):
        api.import_net(stored, runs=tmp_path / "runs")
    assert not (tmp_path / "runs/given/nets/imported/manifest.json").exists()


def test_what_cannot_be_adopted_is_told(stored, chain, tmp_path, refused):
    (stored / "recipe.yaml").rename(tmp_path / "own.yaml")
    assert "say with --recipe" in refused(tmp_path, "evaluate", "given")
    assert "a run has its own recipe" in refused(chain, "evaluate", "tiny", "--recipe", "tiny.yaml")
    images = tmp_path / "images"
    for side in ("train", "test"):
        for label in ("cat", "dog"):
            (images / side / label).mkdir(parents=True)
            for i in range(4):
                write_png(images / side / label / f"{i}.png", i + 10 * (label == "dog") + 100 * (side == "test"))
    own = (tmp_path / "own.yaml").read_text().replace("name: digits", "name: folder")
    (tmp_path / "own.yaml").write_text(own)
    told = refused(tmp_path, "evaluate", "given", "--recipe", "own.yaml", "--data", "images")
    assert "the net is for 10 classes" in told
    assert "--recipe" in told


def write_png(path, shade):
    from PIL import Image

    Image.fromarray(np.full((8, 8, 3), shade, np.uint8)).save(path)


@pytest.mark.exhaustive
def test_other_settings_for_a_stored_net_stand_beside_those_of_its_recipe(stored, tmp_path, command):
    words = ["evaluate", "given", "--target", "quick.yaml"]
    done = command(tmp_path, *words, "--attacks", "fgsm", "--limit", "20")
    assert done.code == 0, done.err
    run = tmp_path / "runs/given"
    (beside,) = run.glob("boards/imported/fp32@quick@*")
    assert "limit: 60" in (run / "recipe.yaml").read_text()
    own = (run / "recipe.yaml").read_bytes()
    other = (stored / "recipe.yaml").read_text().replace("limit: 60", "limit: 20")
    (tmp_path / "other.yaml").write_text(other)
    done = command(tmp_path, *words, "--recipe", "other.yaml", "--attacks", "fgsm")
    assert done.code == 0, done.err
    assert list(run.glob("boards/imported/*")) == [beside]
    assert (run / "recipe.yaml").read_bytes() == own
