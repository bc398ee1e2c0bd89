"""Nets of every kind: what can be pruned is, to the same scores, and loads and exports again; what cannot stays."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from kinds import FORMS, KINDS, LEFT, SHAPE, Net, block, pooled
from torch import nn
from torch.nn import functional as F
from trainings import step_of

from robustdeploy.core.recipe import Budget, Choice
from robustdeploy.cost.memory import peak_bytes
from robustdeploy.cost.module import macs
from robustdeploy.cost.sparse import nonzero_macs
from robustdeploy.errors import BudgetError, TrainingError
from robustdeploy.export.metadata import OnnxMetadata
from robustdeploy.export.onnx_file import export_onnx
from robustdeploy.export.parity import measure_parity
from robustdeploy.nets.normalised import Normalised, main_output
from robustdeploy.nets.store import NetInfo, load_net, save_net
from robustdeploy.prune.compact import prove_equal
from robustdeploy.prune.groups import told_whole
from robustdeploy.prune.masks import Masks
from robustdeploy.prune.n_m import NM
from robustdeploy.prune.rehearsal import find_groups
from robustdeploy.prune.weights import Weights
from robustdeploy.train.notes import notes

EXPORTED = ("PReLU per channel", "group norm", "batch norm without weights", "ResNeXt", "U-Net", "rows", "sigmoids")
"""Kinds with a layer that no other kind has; an export takes seconds."""


def built(name):
    torch.manual_seed(0)
    return Normalised(KINDS[name][0](), [0.5], [0.25]).eval()


def for_sizes(**sizes):
    return {f"net.{name}": size for name, size in sizes.items()}


@pytest.fixture(scope="module")
def pruned():
    """Nets under masks after one step, frozen at some channels, by kind."""
    held = {}

    def get(name):
        if name not in held:
            net = built(name)
            budget = next(ops for ops in (0.5, 0.75, 0.9, 0.93, 0.96, 0.98) if reachable(net, ops))
            pruning = Masks().wrap(net, SHAPE, Budget(ops=budget))
            with torch.no_grad():
                pruning.logits.normal_(generator=torch.Generator().manual_seed(1))
            pruning.train()(torch.rand(8, *SHAPE)).square().mean().backward()
            pruning.before_step(step_of(8))
            pruning.after_step(1.0)
            held[name] = pruning
        return held[name]

    return get


def reachable(net, ops):
    try:
        Masks().wrap(net, SHAPE, Budget(ops=ops))
    except BudgetError:
        return False
    return True


@pytest.mark.parametrize("name", KINDS)
def test_the_groups_are_these_and_what_stays_is_named(name):
    coupling = find_groups(built(name), SHAPE)
    _, sizes, stays = KINDS[name]
    assert {group.name: group.size for group in coupling.groups} == for_sizes(**sizes)
    told = told_whole(coupling.whole)
    for layer, reason in stays.items():
        assert reason in told_whole({layer: coupling.whole[f"net.{layer}"]})
        assert layer in told


@pytest.mark.parametrize("name", KINDS)
@pytest.mark.alike(16)
def test_masked_and_compact_net_give_the_same_scores_and_it_loads_again(name, pruned, tmp_path):
    pruning = pruned(name)
    small = pruning.compact()
    images = torch.rand(6, *SHAPE)
    assert prove_equal(pruning.eval(), small, images, images).clean <= 1e-5
    assert round(pruning.costs()["ops"]) == macs(small, SHAPE) < macs(pruning.net, SHAPE)
    assert main_output(small.train()(images)).shape == (6, 10)
    names = tuple(f"c{number}" for number in range(10))
    choice = Choice(name="kinds:made", options={"name": name})
    save_net(tmp_path, small.eval(), NetInfo(net=choice, classes=names, image_shape=SHAPE, mean=(0.5,), std=(0.25,)))
    again = load_net(tmp_path, trust=True)
    with torch.no_grad():
        assert torch.equal(again(images), small(images))


@pytest.mark.slow
@pytest.mark.parametrize("name", EXPORTED)
def test_the_exported_file_gives_the_same_scores(name, pruned, tmp_path):
    small, words = pruned(name).compact().eval(), dict.fromkeys(("recipe_sha256", "threat", "norm", "classes"), "x")
    metadata = OnnxMetadata(**words, eps=0.1, ops_ratio=1, macs=1, input_mean="0.5", input_std="0.25")
    export_onnx(small, SHAPE, tmp_path / "model.onnx", 18, metadata)
    images = np.random.default_rng(0).integers(0, 256, (20, *SHAPE)).astype(np.uint8)
    parity, _ = measure_parity(small, tmp_path / "model.onnx", images, images)
    assert parity.max_abs_clean < 1e-4


@pytest.mark.parametrize("name", ["group norm", "PReLU per channel", "instance norm", "U-Net", "rows", "ResNeXt"])
def test_activation_memory_is_modelled_for_every_kind_of_layer(name):
    """A model that is wrong is refused; what it tells of the pruned net is what is counted on it."""
    pruning = Masks().wrap(built(name), SHAPE, Budget(ops=0.75, memory=1.0))
    pruning.after_step(1.0)
    assert round(pruning.costs()["memory"]) == peak_bytes(pruning.compact(), SHAPE)


MASKED = (*(f"a {form} while training" for form in FORMS), "twice", "weight norm", "spectral norm")
MASKED += ("old spectral norm", "weight standardisation", "rows", "self-attention")


@pytest.mark.parametrize("pruner", [Weights(), NM()], ids=["weights", "n-m"])
@pytest.mark.parametrize("name", MASKED)
def test_single_weights_are_masked_in_nets_of_every_kind(name, pruner):
    net = built(name)
    computed = {layer for layer, reason in find_groups(net, SHAPE).whole.items() if reason.endswith(LEFT)}
    pruning = pruner.wrap(net, SHAPE, Budget(ops=0.6) if isinstance(pruner, Weights) else Budget())
    assert computed <= set(pruning.whole)
    assert not computed & {weight.layer for weight in pruning.weights}
    pruning.train()(torch.rand(8, *SHAPE)).square().mean().backward()
    pruning.before_step(step_of(8))
    pruning.after_step(0.2)
    pruning.after_step(1.0)
    small, images = pruning.compact(), torch.rand(4, *SHAPE)
    assert prove_equal(pruning.eval(), small, images, images).clean <= 1e-5
    assert nonzero_macs(small, SHAPE) <= pruning.costs()["ops"] < macs(net, SHAPE)


def test_a_layer_of_two_names_is_masked_and_counted_once():
    same = block(16, 16)
    net = Net(lambda net, x: net.fc(pooled(net.b(net.a(x)))), a=block(1, 16), b=same, fc=nn.Linear(16, 10))
    net.also = nn.ModuleList([net.a, same])
    pruning = Weights().wrap(net, SHAPE, Budget(ops=0.5))
    assert [weight.layer for weight in pruning.weights] == ["a.0", "b.0", "fc"]
    pruning.train()(torch.rand(4, *SHAPE)).sum().backward()
    pruning.before_step(step_of(4))
    pruning.after_step(1.0)
    small = pruning.compact()
    assert small.also[1] is small.b
    assert nonzero_macs(small, SHAPE) == pruning.costs()["ops"] <= 0.5 * macs(net, SHAPE)


def test_without_any_group_the_net_is_refused_before_training_with_the_reasons():
    net = Net(lambda net, x: net.fc(pooled(net.norm(net.a(x)))), a=nn.Conv2d(1, 16, 3), fc=nn.Linear(16, 10))
    net.norm = nn.LayerNorm([16, 6, 6])
    with pytest.raises(BudgetError, match=r"no channels of this Net can be removed; what stays whole: a \(the norm"):
        Masks().wrap(net, SHAPE, Budget(ops=0.5))


def test_a_budget_that_what_stays_whole_takes_up_is_refused_with_its_names_and_the_smallest_one():
    with pytest.raises(BudgetError) as caught:
        Masks().wrap(built("unequal parts"), SHAPE, Budget(ops=0.1))
    said = str(caught.value)
    assert "the smallest this net and target allow is 0.4465 of the operations" in said
    assert "what stays whole: stem.0, b.0, c.0 (the forward pass splits it into parts of 8 and 16 channels)" in said


class Mixed(nn.Module):
    """What a channel is multiplied with depends on how many there are: no operation is at fault, the sum is."""

    def __init__(self):
        super().__init__()
        self.a, self.b, self.c = block(1, 12), block(12, 14), block(14, 16)
        self.fc = nn.Linear(16, 10)

    def forward(self, x):
        x = self.a(x)
        x = self.b(x * (x.shape[1] / 12))
        return self.fc(pooled(self.c(x)))


def test_a_fault_that_no_operation_shows_is_found_by_trying_and_keeps_its_own_group_alone():
    coupling = find_groups(Mixed(), SHAPE)
    assert {group.name for group in coupling.groups} == {"b.0", "c.0"}
    assert "the scores are others" in coupling.whole["a.0"]


def test_a_layer_that_is_computed_once_for_all_images_stays_whole_and_the_rest_is_pruned():
    """A table of positions goes through a small network, as in Swin V2, and is added to every image."""

    def run(net, x):
        return net.fc(pooled(net.b(net.a(x)) + net.second(F.relu(net.first(net.places))).mean((0, 1))[:, None, None]))

    layers = {"first": nn.Linear(2, 24), "second": nn.Linear(24, 12), "fc": nn.Linear(12, 10)}
    net = Net(run, a=block(1, 16), b=block(16, 12), **layers)
    net.register_buffer("places", torch.rand(1, 5, 2))
    coupling = find_groups(net, SHAPE)
    assert coupling.whole["first"] == "it is not computed for each image by itself"
    assert [group.name for group in coupling.groups] == ["a.0"]
    Masks().wrap(net, SHAPE, Budget(ops=0.7))


def test_a_net_of_chance_is_refused():
    net = Net(lambda net, x: net.fc(F.dropout(pooled(net.a(x)))), a=block(1, 16), fc=nn.Linear(16, 10))
    with pytest.raises(TrainingError, match="this Net gives other scores each time it sees the same images"):
        find_groups(net, SHAPE)


def test_a_step_that_fails_is_told_before_training():
    def run(net, x):
        maps = net.a(x).exp()
        maps.mul_(2)  # overwrites what the pass back of exp needs
        return net.fc(pooled(maps))

    net = Net(run, a=nn.Conv2d(1, 16, 3), fc=nn.Linear(16, 10))
    for pruner in (Masks(), Weights()):
        with pytest.raises(TrainingError, match="this Net cannot be trained under masks: a step on two images fails"):
            pruner.wrap(net, SHAPE, Budget(ops=0.5))


def test_auxiliary_outputs_and_whole_layers_are_told():
    net = built("a tuple while training")
    told = list(notes(net, Masks().wrap(net, SHAPE, Budget(ops=0.5)), SHAPE))
    assert told[0] == (
        "the net gives several outputs while it trains; the loss is that of its scores alone, not of the others"
    )
    assert told[1] == "pruning leaves layers as they are: aux (the scores do not depend on it)"
    assert list(notes(built("sigmoids"), None, SHAPE)) == []


def test_scores_that_are_not_the_first_output_are_told():
    net = KINDS["a tuple while training"][0]()
    run = net.run
    net.run = lambda net, x: tuple(reversed(found)) if isinstance(found := run(net, x), tuple) else found
    with pytest.raises(TrainingError, match="gives the output of aux first, and its scores come from fc"):
        list(notes(Normalised(net, [0.5], [0.5]), None, SHAPE))
