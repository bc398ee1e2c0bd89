"""What is found wrong before torch loads: by the words of a command and a look at the disk."""

import os

import pytest

from robustdeploy.core.load import load_recipe, load_target
from robustdeploy.core.recipe import Data
from robustdeploy.core.target import LatencyPlan
from robustdeploy.data.find import find_source
from robustdeploy.devices.profiles import profiles_beside
from robustdeploy.engine.run import Run
from robustdeploy.errors import DataError, RecipeError, StorageError, UsageError
from robustdeploy.preflight import (
    check_asked,
    check_data,
    check_latency,
    check_recipe,
    check_run_folder,
    check_start,
    check_training,
    remarks,
)


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
        check_start(recipe(), tmp_path / "gone", tmp_path)
    run = Run.for_recipe(tmp_path, recipe(), "begun")
    with pytest.raises(UsageError, match="has no trained net yet"):
        check_start(recipe(), run.root, tmp_path)
    (run.root / "nets/pruned").mkdir(parents=True)
    (run.root / "nets/pruned/net.json").write_text("{}")
    check_start(recipe(), run.root, tmp_path)


@pytest.mark.parametrize("damage", ["", "{", "[]", '{"net": 3}', '{"net": {"name": "resnet8"}, "modules": 7}'])
def test_a_damaged_start_is_left_to_who_reads_all_of_it(tmp_path, damage):
    (tmp_path / "net.json").write_text(damage)
    check_start(recipe("net=resnet8"), tmp_path, tmp_path)


def test_a_limit_on_latency_needs_a_profile_and_the_command_for_it_fits(tmp_path):
    limit = "budget.latency={target: host-cpu, at_most: 0.5}"
    for more, command in [
        ((), "robustdeploy profile digits-resnet8 --target host-cpu"),
        (("name=mine",), "robustdeploy profile RECIPE --target host-cpu"),
        (("net=resnet20",), "robustdeploy profile digits-resnet8 --set 'net={name: resnet20}' --target host-cpu"),
    ]:
        with pytest.raises(UsageError, match="there is no profile of") as refused:
            check_latency(recipe(limit, *more), tmp_path / "profiles")
        assert f"run `{command}` first" in str(refused.value)
    check_latency(recipe(), tmp_path / "profiles")


def test_the_runs_of_a_sweep_or_a_table_share_the_profiles_of_all_runs(tmp_path):
    runs = tmp_path / "runs"
    (runs / "sweep-tiny").mkdir(parents=True)
    (runs / "sweep-tiny" / "base.yaml").touch()
    assert profiles_beside(runs / "sweep-tiny") == profiles_beside(runs) == tmp_path / "profiles"


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


RULE = "gate=[{id: RD-ACC-01, metric: clean_accuracy, at_least: 0.5, n_at_least: 300}]"


def test_a_rule_of_more_images_than_there_will_be_is_refused_unless_the_net_is_trained(tmp_path):
    asked, runs = recipe("evaluate.limit=64", RULE), tmp_path / "runs"
    told = "RD-ACC-01 can never hold: needs 300 where the evaluation has 64 test images"
    for check in (check_training, check_asked):
        with pytest.raises(RecipeError, match=told):
            check(asked, runs, "mine")
    run = Run.for_recipe(runs, asked, "mine")
    (run.root / run.net_place).mkdir(parents=True)
    (run.root / run.net_place / "manifest.json").touch()
    check_asked(asked, runs, "mine")
    with pytest.raises(RecipeError, match=told):
        check_asked(asked, runs, "mine", force=True)


def test_images_are_counted_where_that_needs_no_torch(tmp_path):
    with pytest.raises(RecipeError, match="needs 600 where the evaluation has 544 test images"):
        check_asked(recipe(RULE.replace("300", "600")), tmp_path, None)
    assert find_source(recipe().data).test_images == len(find_source(recipe().data).test())


def test_a_rule_of_more_samples_than_a_target_takes_is_refused(tmp_path):
    rule = "gate=[{id: RD-LAT-01, metric: latency_ms.p99.9, at_most: 10}]"
    plan = LatencyPlan(min_samples=100)
    hasty = load_target("host-cpu").model_copy(update={"latency": plan})
    with pytest.raises(RecipeError, match=r"host-cpu may stop at latency.min_samples, 100"):
        check_asked(recipe(rule), tmp_path, None, [hasty])
