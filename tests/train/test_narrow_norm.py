from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from robustdeploy.train import narrow_norm
from robustdeploy.train.narrow_norm import NarrowBatchNorm, narrow_batch_norm

Results = dict[str, Tensor]


def images_of(channels: int, dtype: torch.dtype = torch.float32, size: int = 8) -> Tensor:
    generator = torch.Generator().manual_seed(channels)
    spread = torch.rand(channels, 1, 1, generator=generator) * 3
    drawn = torch.randn(32, channels, size, size, generator=generator) * spread + spread
    return drawn.to(dtype).contiguous(memory_format=torch.channels_last)


def passes(normalise: Any, images: Tensor, number: torch.dtype) -> Results:
    """Forward and back, with parameters and statistics in ``number``."""
    channels = images.shape[1]
    leaf = images.detach().clone(memory_format=torch.preserve_format).requires_grad_()
    weight = torch.linspace(0.5, 2, channels).to(number).requires_grad_()
    bias = torch.linspace(-1, 1, channels).to(number).requires_grad_()
    mean, var = torch.zeros(channels, dtype=number), torch.ones(channels, dtype=number)
    result = normalise(leaf, mean, var, weight, bias, True, 0.25, 1e-5)
    waves = (0.5 + torch.sin(torch.arange(images.numel()))).view(images.shape).to(images.dtype)
    by_images, by_weight, by_bias = torch.autograd.grad(result, (leaf, weight, bias), waves)
    values = {"result": result, "images": by_images, "weight": by_weight, "bias": by_bias, "mean": mean, "var": var}
    return {name: value.detach().double() for name, value in values.items()}


def off(values: Results, exact: Results) -> dict[str, float]:
    return {name: float((values[name] - of).norm() / of.norm()) for name, of in exact.items()}


@pytest.mark.parametrize("channels", [1, 3, 7, 12, 23, 41, 63])
def test_it_is_batch_normalisation(channels: int) -> None:
    images = images_of(channels)
    exact = passes(F.batch_norm, images.double(), torch.float64)
    wrong = off(passes(narrow_batch_norm, images, torch.float32), exact)
    assert max(wrong.values()) < 1e-5, wrong


@pytest.mark.parametrize("channels", [5, 12, 33])
def test_in_bfloat16_it_is_as_exact_as_torch(channels: int) -> None:
    images = images_of(channels, torch.bfloat16)
    exact = passes(F.batch_norm, images.double(), torch.float64)
    ours = off(passes(narrow_batch_norm, images, torch.float32), exact)
    theirs = off(passes(F.batch_norm, images, torch.float32), exact)
    assert all(ours[name] < 1.5 * theirs[name] + 1e-4 for name in exact), (ours, theirs)


def test_a_mean_far_from_zero_leaves_the_variance_exact() -> None:
    images = images_of(7) * 0.01 + 100
    exact = passes(F.batch_norm, images.double(), torch.float64)
    assert off(passes(narrow_batch_norm, images, torch.float32), exact)["var"] < 1e-5


def test_images_and_gradients_that_do_not_lie_channels_last_are_read_right() -> None:
    images = images_of(6).contiguous()
    exact = passes(F.batch_norm, images.double(), torch.float64)
    assert max(off(passes(narrow_batch_norm, images, torch.float32), exact).values()) < 1e-5


@pytest.fixture
def used(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Channels of the layers that were normalised in our way."""
    channels: list[int] = []

    def counted(images: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        channels.append(images.shape[1])
        return narrow_batch_norm(images, *args, **kwargs)

    monkeypatch.setattr(narrow_norm, "narrow_batch_norm", counted)
    return channels


def test_only_large_narrow_layers_in_training_go_that_way(used: list[int]) -> None:
    large, few = images_of(12, size=32), images_of(12, size=8)
    net = nn.BatchNorm2d(12)
    with NarrowBatchNorm():
        net(large)
        assert used == [12]
        net(few)
        nn.BatchNorm2d(16)(images_of(16, size=32))
        nn.BatchNorm2d(12, affine=False)(large)
        nn.BatchNorm2d(12).double()(large.double())
        net(large.contiguous())
        net.eval()(large)
    net.train()(large)  # entered no more
    assert used == [12]


def test_a_net_trains_alike_with_and_without(used: list[int]) -> None:
    def weights_after(steps: int, ours: bool) -> dict[str, Tensor]:
        torch.manual_seed(0)
        net = nn.Sequential(nn.Conv2d(3, 10, 3), nn.BatchNorm2d(10), nn.ReLU(), nn.Conv2d(10, 4, 30))
        net.to(memory_format=torch.channels_last)
        optimiser = torch.optim.SGD(net.parameters(), 0.1)
        for step in range(steps):
            images = images_of(3, size=32).roll(step, 0)
            with NarrowBatchNorm() if ours else torch.enable_grad():
                loss = F.cross_entropy(net(images).flatten(1), torch.arange(32) % 4)
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
        return net.state_dict()

    ours, theirs = weights_after(3, ours=True), weights_after(3, ours=False)
    assert used == [10, 10, 10]
    for name, value in theirs.items():
        assert torch.allclose(ours[name].double(), value.double(), rtol=1e-4, atol=1e-5), name


def test_a_compiler_is_left_to_its_own_ways(used: list[int]) -> None:
    net = nn.Sequential(nn.Conv2d(3, 10, 1), nn.BatchNorm2d(10)).to(memory_format=torch.channels_last)
    images = images_of(3, size=32)
    with NarrowBatchNorm():
        compiled = torch.compile(net, backend="aot_eager", fullgraph=True)(images)
        assert used == []
        assert torch.allclose(compiled, net(images), atol=1e-5)
    assert used == [10]
