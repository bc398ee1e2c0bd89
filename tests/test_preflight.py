"""What is found wrong before torch loads: by the words of a command and a look at the disk."""

import os

import pytest

from robustdeploy.core.load import load_recipe
from robustdeploy.core.recipe import Data
from robustdeploy.engine.run import Run
from robustdeploy.errors import DataError, RecipeError, StorageError, UsageError
from robustdeploy.preflight import check_data, check_recipe, check_run_folder, check_start, check_training, remarks


def recipe(*overrides):
    return load_recipe("digits-resnet8", overrides, registries=None)


def test_a_sound_recipe_passes_and_leaves_nothing_behind(tmp_path):
    check_training(recipe(), tmp_path / "runs", "mine")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("override", "told"),
    [
        ("budget.ops=30", "did you mean 0.3, or 30%?"),
        ("budget.params=50", "did you mean 0.5, or 50%?"),
        ("budget.memory=2", "did you mean 0.02, or 2%?"),
        ("train.device=gpu", "did you mean 'cuda'?"),
        ("train.device=cudaa", "did you mean 'cuda'?"),
        ("train.device=tpu", "which is no device"),
        ("evaluate.attacks=[fgsm, pgd, fgsm]", "fgsm stands there twice"),
        ("net=nowhere.at_all:factory", "no package or module 'nowhere'"),
        ("net=os:system", "os"),
    ],
)
def test_what_no_machine_could_do_is_refused(override, told):
    with pytest.raises(UsageError) as refused:
        check_recipe(recipe(override))
    assert told in str(refused.value)


@pytest.mark.parametrize("override", ["budget.ops=12.2M", "budget.params=101", "train.device=cuda:1", "net=resnet50"])
def test_what_some_machine_could_do_is_not(override):
    check_recipe(recipe(override))


def test_a_factory_is_looked_for_in_its_file_without_running_it(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "nets_of_mine.py").write_text("raise SystemExit('it was run')\nclass Small: pass\n")
    check_recipe(recipe("net=nets_of_mine:Small"))
    with pytest.raises(RecipeError, match="defines no Smal;"):
        check_recipe(recipe("net=nets_of_mine:Smal"))


def test_a_run_folder_that_cannot_be_one_is_refused(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match=r"file is a file; choose another folder with --runs"):
        check_run_folder(tmp_path / "file/runs/mine", recipe())
    with pytest.raises(StorageError, match="cannot write"):
        check_run_folder(tmp_path.__class__("/proc/runs/mine"), recipe())
    run = Run.for_recipe(tmp_path / "runs", recipe(), "mine")
    check_run_folder(run.root, recipe())
    with pytest.raises(UsageError, match="holds another recipe"):
        check_run_folder(run.root, recipe("seed=7"))
    with run.lock(), pytest.raises(StorageError, match=f"in use by process {os.getpid()}"):
        check_run_folder(run.root, recipe())


def test_a_start_without_a_net_is_refused(tmp_path):
    with pytest.raises(UsageError, match=r"train.start: .*gone does not exist"):
        check_start(tmp_path / "gone", tmp_path)
    run = Run.for_recipe(tmp_path, recipe(), "begun")
    with pytest.raises(UsageError, match="has no trained net yet"):
        check_start(run.root, tmp_path)
    (run.root / "nets/pruned").mkdir(parents=True)
    (run.root / "nets/pruned/net.json").write_text("{}")
    check_start(run.root, tmp_path)


@pytest.mark.parametrize(
    ("name", "told"), [("set.tar.gz", "unpack it"), ("set.zip", "unpack it"), ("set.bin", "is a file, not a folder")]
)
def test_data_that_is_a_file_is_told_as_one(tmp_path, name, told):
    (tmp_path / name).write_text("")
    with pytest.raises(DataError, match=told):
        check_data(Data(name="cifar10", path=tmp_path / name))


def test_a_radius_that_is_seldom_meant_is_remarked_on():
    assert list(remarks(recipe())) == []
    (told,) = remarks(recipe("threat.eps=0.8"))
    assert told.startswith("threat.eps is 0.8, more than half")
    assert "8/255" in told
    (told,) = remarks(recipe("evaluate.attacks=[{name: pgd, alpha: 0.9}]"))
    assert told.startswith("evaluate.attacks[0].alpha is 0.9")
