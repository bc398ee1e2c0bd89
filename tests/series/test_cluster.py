"""A sweep on a Ray cluster: what comes back is believed as far as its seals say, and a real cluster of one node."""

import io
import json
import tarfile
from pathlib import Path

import pytest

from robustdeploy.core.load import load_recipe, load_target
from robustdeploy.errors import ArtifactError, EnvironmentFailure
from robustdeploy.series.cluster import Cluster, made_on_a_node, unpacked
from robustdeploy.sweep.cells import axis_from, cells_over
from robustdeploy.sweep.folder import begun


@pytest.fixture
def folder(tmp_path, chain):
    cells = cells_over([axis_from("seed=0")])
    made = begun(tmp_path / "sweep", load_recipe(chain / "tiny.yaml"), [load_target(chain / "quick.yaml")], (), cells)
    return made, made.jobs[0]


def packed(run, name):
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        archive.add(run, name)
    return buffer.getvalue()


def test_a_run_that_comes_back_whole_is_put_in_place_and_a_damaged_one_is_not(desk, folder):
    made, job = folder
    content = packed(desk / "runs/tiny", job.name)
    unpacked(content, made, job)
    report = made.root / job.name / "report.json"
    before = report.read_bytes()
    # What a node sends again replaces it; what was changed on the way, cut or made up does not.
    unpacked(content, made, job)
    weights = desk / "runs/tiny/nets/pruned/model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"x")
    for bad in (packed(desk / "runs/tiny", job.name), content[: len(content) // 2], b"no archive"):
        with pytest.raises(ArtifactError):
            unpacked(bad, made, job)
    assert report.read_bytes() == before
    assert sorted(path.name for path in made.root.iterdir()) == ["base.yaml", "seed0", "sweep.json", "targets"]


def test_an_archive_that_leads_out_of_the_folder_is_refused(folder):
    made, job = folder
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        entry = tarfile.TarInfo("../escaped")
        archive.addfile(entry, io.BytesIO(b""))
    with pytest.raises(ArtifactError, match="cannot be read"):
        unpacked(buffer.getvalue(), made, job)
    assert not (made.root / "escaped").exists()


def test_a_node_with_another_version_makes_nothing():
    code, said, content = made_on_a_node("0.0.0", {}, ["run"], "seed0", None)
    assert (code, content) == (4, None)
    assert "and 0.0.0 is asked for" in said


def test_a_node_says_what_a_run_said_last(folder):
    made, job = folder
    words = [*made.words(job, Path()), "--set", "train.epochs=0"]
    code, said, content = made_on_a_node(_version(), made.files(job), words, job.name, None)
    assert (code, content) == (2, None)
    assert "train.epochs" in said


def _version():
    import robustdeploy

    return robustdeploy.__version__


@pytest.mark.exhaustive
@pytest.mark.slow
def test_a_cluster_that_is_not_there_is_the_environments_fault(folder):
    made, job = folder
    with pytest.raises(EnvironmentFailure, match=r"no Ray cluster answers at ray://127\.0\.0\.1:9"):
        list(Cluster("ray://127.0.0.1:9").run(made, [job], print))


@pytest.mark.exhaustive
@pytest.mark.slow
def test_a_sweep_on_a_real_cluster_brings_every_run_back(cluster, tmp_path, chain, command):
    for name in ("tiny.yaml", "quick.yaml"):
        (tmp_path / name).write_bytes((chain / name).read_bytes())
    words = (
        "--set",
        "baseline=false",
        "--set",
        "train.epochs=3",
        "--over",
        "seed=0,1",
        "--on",
        cluster.address,
        "--json",
    )
    done = command(tmp_path, "sweep", "tiny.yaml", "--target", "quick.yaml", *words)
    assert done.code == 0, done.err
    assert [row["run"] for row in done.document["rows"]] == ["seed0", "seed1"]
    root = tmp_path / "runs/sweep-tiny"
    assert command(tmp_path, "verify", str(root / "seed1")).code == 0
    assert json.loads((root / "results.json").read_text()) == done.document
