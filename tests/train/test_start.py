"""A training that goes on from a net that is trained already: its weights, its checks, and what is told of it."""

import json
import shutil

import pytest
import torch

from robustdeploy import load_net
from robustdeploy.api import prune
from robustdeploy.core.asked import recipe_for
from robustdeploy.core.callback import Callback
from robustdeploy.data.load import load_data
from robustdeploy.engine.run import training_content, training_fingerprint
from robustdeploy.errors import ArtifactError, DataError, UsageError
from robustdeploy.nets.normalised import Normalised
from robustdeploy.nets.store import NetInfo, load_info, save_net
from robustdeploy.train.start import net_info, starting_net

CPU = torch.device("cpu")
SMALL = ("net={name: resnet8, width: 4}", "train.device=cpu", "train.epochs=1", "train.lr=1e-9", "train.ema=null")


def small(*more):
    """The digits recipe with a small net that one epoch hardly moves."""
    return recipe_for("digits-resnet8", overrides=(*SMALL, *more))


def digits():
    return load_data(small().data)


def weights(net):
    return {name: value.detach() for name, value in net.named_parameters()}


def stored(folder, seed=7, **changed):
    """Keep a dense net of that seed, with a normalisation of its own."""
    data, recipe = digits(), small(f"seed={seed}")
    net = starting_net(recipe, data, CPU)
    whole = Normalised(net.net, [0.25], [0.5])
    shape = data.image_shape
    info = NetInfo(net=recipe.net, classes=data.classes, image_shape=shape, mean=(0.25,), std=(0.5,))
    save_net(folder, whole, info.model_copy(update=changed))
    return folder


@pytest.fixture
def given(tmp_path):
    folder = tmp_path / "given"
    folder.mkdir()
    return stored(folder)


def test_training_begins_with_the_stored_weights_and_keeps_their_normalisation(given):
    recipe = small(f"train.start={given}")
    net, held = starting_net(recipe, digits(), CPU), load_net(given)
    assert net.training
    assert all(torch.equal(value, weights(held)[name]) for name, value in weights(net).items())
    fresh = weights(starting_net(small(), digits(), CPU))
    assert any(not torch.equal(value, fresh[name]) for name, value in weights(net).items())
    assert net.mean.flatten().tolist() == [0.25]
    assert net_info(recipe, digits()).std == (0.5,)


def test_dense_and_pruned_net_both_go_on_from_it_and_the_seal_says_so(given, tmp_path):
    run = prune(small(f"train.start={given}", "budget.ops=0.4"), runs=tmp_path / "runs")
    dense, start = weights(load_net(run.root / "nets/dense")), weights(load_net(given))
    for name, value in dense.items():
        torch.testing.assert_close(value, start[name], atol=1e-5, rtol=0)
    info = load_info(run.root / "nets/pruned")
    assert (info.mean, info.std) == ((0.25,), (0.5,))
    pruned = load_net(run.root / "nets/pruned")
    kept = pruned.net.fc.weight  # a subset of the columns that the start has
    columns = start["net.fc.weight"].T
    assert kept.shape[1] <= len(columns)
    for column in kept.T:
        assert (columns - column).abs().amax(1).min() < 1e-5
    for place in ("nets/dense", "nets/pruned"):
        told = json.loads((run.root / place / "manifest.json").read_text())["facts"]["data"]["start"]
        assert load_info(given).weights_sha256[:12] in told
    assert "start" not in prune(small("baseline=false"), runs=tmp_path / "fresh").sealed("nets/pruned").facts["data"]


def test_other_weights_in_the_same_folder_are_another_training(given, tmp_path):
    recipe, said = small(f"train.start={given}", "budget.ops=null", "baseline=false"), []

    class Heard(Callback):
        def say(self, line):
            said.append(line)

        def event(self, event):
            said.append(event.kind)

    for _ in range(2):
        run = prune(recipe, runs=tmp_path / "runs", callback=Heard())
    assert said[-1] == "skipped"
    stored(given, seed=8)
    prune(recipe, runs=tmp_path / "runs", callback=Heard())
    assert said[-1] == "sealed"
    now = weights(load_net(run.root / "nets/dense"))
    assert all(torch.allclose(now[name], value, atol=1e-5) for name, value in weights(load_net(given)).items())


@pytest.mark.parametrize("below", ["", "nets/pruned"])
def test_the_latest_run_is_gone_on_from_although_it_is_then_another(tmp_path, given, below):
    runs = tmp_path / "runs"
    shutil.copytree(given, runs / "mine" / "nets" / "pruned")
    (runs / "latest").symlink_to("mine")
    recipe = small(f"train.start={runs / 'latest' / below}", "budget.ops=null", "baseline=false")
    for _ in range(2):  # the second time by the recipe that was kept, which names the run and not the link
        run = prune(recipe, runs=runs, name="next")
        assert (runs / "latest").resolve() == run.root.resolve()
        assert run.recipe.train.start == runs / "mine" / below
        recipe = run.recipe


def test_a_start_that_goes_away_while_training_costs_nothing(given, tmp_path, monkeypatch):
    from robustdeploy.train import trainings

    def fit(*parts):
        shutil.rmtree(given)
        return loop_fit(*parts)

    loop_fit = trainings.fit
    monkeypatch.setattr(trainings, "fit", fit)
    run = prune(small(f"train.start={given}", "budget.ops=0.4", "baseline=false"), runs=tmp_path / "runs")
    assert load_info(run.root / "nets/pruned").mean == (0.25,)


def test_a_net_that_cannot_be_gone_on_with_is_refused_before_anything_is_written(given, tmp_path):
    def refusal(recipe, kind=UsageError):
        with pytest.raises(kind) as caught:
            prune(recipe, runs=tmp_path / "runs")
        assert not (tmp_path / "runs").exists()
        return str(caught.value)

    assert "width: 6" in refusal(small("net={name: resnet8, width: 6}", f"train.start={given}"))
    assert "expected net.json" in refusal(small(f"train.start={tmp_path / 'nowhere'}"), ArtifactError)
    compact = prune(small("budget.ops=0.4", "baseline=false"), runs=tmp_path / "other").root
    assert "compact already" in refusal(small(f"train.start={compact}"))
    other = tmp_path / "other-classes"
    other.mkdir()
    stored(other, classes=tuple("abcdefghij"))
    assert "is for 10 classes (a, b, c" in refusal(small(f"train.start={other}"), DataError)
    (given / "model.safetensors").write_bytes((given / "model.safetensors").read_bytes()[:-9])
    assert "truncated" in refusal(small(f"train.start={given}"), ArtifactError)


def test_fresh_weights_leave_the_name_of_a_training_as_it_was(given):
    assert training_fingerprint(small()) != training_fingerprint(small(f"train.start={given}"))
    assert "start" not in training_content(small())["train"]


def test_the_command_line_begins_with_a_run(command, tmp_path, given):
    shutil.copytree(given, tmp_path / "runs" / "mine" / "nets" / "pruned")
    words = [word for setting in SMALL for word in ("--set", setting)]
    done = command(
        tmp_path, "prune", "digits-resnet8", "--start", "runs/mine", "--set", "baseline=false", *words, "--json"
    )
    assert done.code == 0, done.err
    assert "from a trained net" in done.document["facts"]["data"]["start"]
