"""Latent features: which maps are kept, and what is said of them."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from robustdeploy.errors import TrainingError
from robustdeploy.nets.normalised import Normalised
from robustdeploy.onboard.types import Threat
from robustdeploy.train.features import latent, magnitude, vulnerability
from robustdeploy.train.mixing import both
from robustdeploy.train.tasks.pgd import PgdAt
from robustdeploy.train.tasks.standard import Standard


class Functional(nn.Module):
    """Its activations are functions, its second layer runs twice, and two layers read one map."""

    def __init__(self):
        super().__init__()
        self.first, self.again = nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(4, 4, 3, padding=1)
        self.left, self.right, self.out = nn.Conv2d(4, 4, 1), nn.Conv2d(4, 4, 1), nn.Linear(4, 10)

    def forward(self, images):
        x = F.relu(self.again(F.relu(self.again(F.relu(self.first(images))))))
        x = F.relu(self.left(x) + self.right(x))
        return self.out(x.mean((2, 3)))


def by_hand(net, images):
    one = F.relu(net.first(images))
    two = F.relu(net.again(one))
    three = F.relu(net.again(two))
    four = F.relu(net.left(three) + net.right(three)).mean((2, 3))
    return [one, two, three, four]


@pytest.fixture
def images():
    return torch.rand(6, 3, 8, 8, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def net():
    torch.manual_seed(0)
    return Functional()


def test_every_map_behind_an_activation_is_kept_once(net, images):
    with latent(net) as maps:
        net(images)
    assert list(maps.named) == ["again", "again#2", "left", "out"]
    assert all(torch.equal(a, b) for a, b in zip(maps.values, by_hand(net, images), strict=True))
    net(images)  # nothing listens any more
    assert len(maps.named) == 4


def test_what_reads_the_image_itself_is_no_feature(images):
    """Two stems on one image, behind the normalisation of pixels."""

    class Stems(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b, self.out = nn.Conv2d(3, 4, 3), nn.Conv2d(3, 4, 3), nn.Linear(8, 10)

        def forward(self, x):
            return self.out(torch.cat([F.relu(self.a(x)), F.relu(self.b(x))], 1).mean((2, 3)))

    net = Normalised(Stems(), [0.5] * 3, [0.2] * 3)
    with latent(net) as maps:
        net(images)
    assert list(maps.named) == ["net.out"]


@pytest.mark.parametrize("in_bf16", [False, True])
def test_vulnerability_is_the_mean_over_layers_of_what_a_feature_moves(net, images, in_bf16):
    attacked = (images + 0.1).clamp(0, 1)
    with latent(net) as maps, torch.autocast("cpu", dtype=torch.bfloat16, enabled=in_bf16):
        both(net, attacked, images)
    found = vulnerability(maps)
    pairs = zip(by_hand(net, attacked), by_hand(net, images), strict=True)
    assert found.dtype == torch.float32
    expected = sum((a - b).abs().mean().item() for a, b in pairs) / 4
    assert found.item() == pytest.approx(expected, rel=0.1 if in_bf16 else 1e-5)


def test_its_gradient_reaches_the_first_layer_and_the_first_layers_features(net, images):
    """In the authors' program the first layer's share passes no gradient."""
    with latent(net) as maps:
        both(net, images + 0.1, images)
    first = maps.values[0]
    first.retain_grad()
    vulnerability(maps).backward()
    assert net.first.weight.grad.abs().sum() > 0
    # The layer's own share alone, besides what comes through the layers behind it.
    (share,) = torch.autograd.grad((first[:6] - first[6:]).abs().mean() / 4, first)
    behind = first.grad - share
    assert share.abs().sum() > 0
    assert behind.abs().sum() > 0


def test_a_net_without_latent_features_is_refused(images):
    net = Normalised(nn.Sequential(nn.Flatten(), nn.Linear(192, 10)), [0.5] * 3, [0.2] * 3)
    with latent(net) as maps:
        net(images)
    with pytest.raises(TrainingError, match="this Sequential has no latent features"):
        vulnerability(maps)


def test_a_compiled_net_is_seen_and_counted_too(net, images):
    compiled = torch.compile(net, backend="eager")
    compiled(images)
    for _ in range(2):
        with latent(compiled) as maps:
            compiled(images)
        assert len(maps.values) == 4
        assert all(torch.equal(a, b) for a, b in zip(maps.values, by_hand(net, images), strict=True))


@pytest.mark.parametrize("task", [Standard, PgdAt], ids=["standard", "pgd"])
def test_activations_shrink_under_their_weight(task, images):
    def size(l1):
        torch.manual_seed(0)
        net, labels = Functional(), torch.arange(6)
        sgd = torch.optim.SGD(net.parameters(), lr=0.1)
        from_noise = type("None_", (), {"uniform": lambda self, step, shape: torch.full((6, *shape), 0.6)})()
        for _ in range(30):
            sgd.zero_grad()
            task(l1=l1)(net, images, labels, Threat(eps=0.1), from_noise)["loss"].backward()
            sgd.step()
        with latent(net) as maps:
            net(images)
        return magnitude(maps).item()

    assert size(1.0) < 0.8 * size(0.0)


def test_the_weight_of_activations_is_in_the_loss(net, images):
    labels = torch.arange(6)
    plain = Standard()(net, images, labels, Threat(eps=0.1), None)
    sparse = Standard(l1=0.5)(net, images, labels, Threat(eps=0.1), None)
    mean = sum(value.abs().mean().item() for value in by_hand(net, images)) / 4
    assert float(sparse["activation"]) == pytest.approx(mean, rel=1e-5)
    assert sparse["loss"].item() == pytest.approx(plain["loss"].item() + 0.5 * mean, rel=1e-5)
    assert "activation" not in plain
