"""ADMM: the pull is what is written, whatever is cut together, and what is kept is what the paper keeps."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from trainings import step_of

from robustdeploy.core.recipe import Budget
from robustdeploy.cost.module import macs
from robustdeploy.errors import BudgetError
from robustdeploy.prune.admm import Admm
from robustdeploy.prune.compact import prove_equal
from robustdeploy.prune.protocol import PhaseInfo

SHAPE = (2, 8, 8)


def small(norm=True):
    torch.manual_seed(0)
    body = [nn.Conv2d(2, 8, 3), nn.BatchNorm2d(8) if norm else nn.Identity(), nn.ReLU(), nn.Conv2d(8, 8, 3)]
    body += [nn.BatchNorm2d(8) if norm else nn.Identity(), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()]
    net = nn.Sequential(*body, nn.Linear(8, 4))
    for module in net:
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.2, 1.5)
            nn.init.normal_(module.bias)
    return net


@pytest.mark.parametrize("as_released", [False, True])
def test_the_pulls_gradient_is_rho_times_w_less_z_plus_u_after_five_updates(as_released):
    """Worked out in plain torch beside it; the released program's is 1 + 5 times as large."""
    pruning = Admm(updates=10, freeze=0.9, rho=0.01, as_released=as_released).wrap(small(), SHAPE, Budget(params=0.5))
    pruning.on_phase(PhaseInfo())
    weights = [pruning.net.get_parameter(weight.name) for weight in pruning.weights]
    counts = pruning.spread.counts()

    def projected(value, count):
        kept = torch.zeros(value.numel())
        kept[value.abs().flatten().argsort(descending=True)[:count]] = 1
        return value * kept.view(value.shape)

    z = [projected(value.detach(), count) for value, count in zip(weights, counts, strict=True)]
    u = [torch.zeros_like(value) for value in z]
    generator = torch.Generator().manual_seed(1)
    for update in range(6):
        if update:
            with torch.no_grad():
                for value in weights:
                    value.add_(0.05 * torch.randn(value.shape, generator=generator))
            pruning.after_step(0.09 * update + 1e-6)
            z = [projected(value.detach() + one, count) for value, one, count in zip(weights, u, counts, strict=True)]
            u = [one + value.detach() - it for value, one, it in zip(weights, u, z, strict=True)]
        found = torch.autograd.grad(pruning.penalty(step_of(1)), weights)
        strength = 0.01 * 1.3**update * (1 + update if as_released else 1)
        for gradient, value, it, one in zip(found, weights, z, u, strict=True):
            assert torch.allclose(gradient, strength * (value.detach() - it + one), atol=1e-7)
    assert all(value.abs().sum() > 0 for value in weights)  # Z has memory of its own, or its zeros were the net's
    pruning.after_step(0.95)
    assert pruning.is_frozen
    for value, keep in zip(weights, pruning.keeps, strict=True):
        assert value.detach().abs()[keep].min() >= value.detach().abs()[~keep].max()


def test_columns_stay_or_go_together_and_each_layer_keeps_the_same_share():
    net = small()
    pruning = Admm(of="columns").wrap(net, SHAPE, Budget(params=0.5))
    pruning.on_phase(PhaseInfo())
    pruning.finalize()
    for keep, weight in zip(pruning.keeps, pruning.weights, strict=True):
        value = net.get_parameter(weight.name).detach()
        assert (keep.any(0) == keep.all(0)).all()
        norms = value.square().sum(0)
        assert norms[keep[0]].min() >= norms[~keep[0]].max()
        assert 0.3 < keep.float().mean() < 0.6
    with pytest.raises(BudgetError, match="masks on columns reach here, with one in each layer"):
        Admm(of="columns").wrap(small(), SHAPE, Budget(ops=0.02))


@pytest.mark.parametrize("of", ["filters", "bn-filters"])
def test_channels_go_by_the_norm_of_their_filters_or_by_gamma_with_their_biases(of):
    net = small()
    pruning = Admm(of=of).wrap(net, SHAPE, Budget(ops=0.4))
    pruning.on_phase(PhaseInfo())
    gradients = torch.autograd.grad(pruning.penalty(step_of(1)), [net.get_parameter(n) for n in pruning._weights.names])
    pruning.finalize()
    plain, images = pruning.compact().eval(), torch.rand(3, *SHAPE)
    prove_equal(pruning.eval(), plain, images, 1 - images)
    assert 0.97 * 0.4 < macs(plain, SHAPE) / macs(net, SHAPE) <= 0.4
    rows = {"3": (3, 4), "0": (0, 1)}
    for name, kept in pruning.kept().items():
        value = net[rows[name][of == "bn-filters"]].weight.detach().flatten(1) if of == "filters" else None
        norms = value.norm(dim=1) if of == "filters" else net[rows[name][1]].weight.detach().abs()
        gone = sorted(set(range(8)) - set(kept.tolist()))
        assert norms[kept].min() >= norms[gone].max()
        assert plain[rows[name][1]].bias.numel() == len(kept)  # no constant of a gone channel is left
    assert any(gradient.any() for gradient in gradients)


def test_bn_filters_need_normalisation():
    with pytest.raises(BudgetError, match=r"no normalisation scales the channels of .*; say of: filters"):
        Admm(of="bn-filters").wrap(small(norm=False), SHAPE, Budget(ops=0.48))
