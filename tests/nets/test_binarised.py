"""Binarised layers: values, gradients, a training that learns, and an export with the same scores."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from robustdeploy.attacks.fgsm import Fgsm
from robustdeploy.core.recipe import Budget, Choice
from robustdeploy.cost.module import macs, params
from robustdeploy.data.noise import Noise
from robustdeploy.errors import BudgetError
from robustdeploy.nets.binarised import SCALE, BinaryConv2d, sign
from robustdeploy.nets.build import build_net
from robustdeploy.onboard.types import Threat
from robustdeploy.prune.one_shot import OneShot

SHAPE = (1, 28, 28)


def made(width=8):
    torch.manual_seed(0)
    return build_net(Choice(name="wang-cnn", options={"width": width, "binary": True}), 10, SHAPE, [0.5], [0.25])


def test_a_sign_is_never_zero_and_its_gradient_is_gated_by_the_number_itself():
    x = torch.tensor([-2.0, -1.0, -0.3, 0.0, 0.3, 1.0, 2.0], requires_grad=True)
    assert torch.equal(sign(x), torch.tensor([-1.0, -1, -1, 1, 1, 1, 1]))
    # Not the gradient is cut to 1, as in the authors' program: one of 5 passes whole.
    sign(x).backward(torch.full((7,), 5.0))
    assert torch.equal(x.grad, torch.tensor([0.0, 5, 5, 5, 5, 5, 0]))
    with torch.no_grad():
        assert torch.equal(sign(x), sign(x.detach().clone().requires_grad_()))


def test_a_binary_convolution_counts_agreements():
    layer, images = BinaryConv2d(3, 4, 5, stride=2), torch.randn(2, 3, 9, 9)
    found = layer(images)
    as_signs = [torch.where(value >= 0, 1.0, -1.0) for value in (images, layer.weight)]
    assert torch.equal(found, F.conv2d(*as_signs, stride=2))
    assert found.abs().max() <= 75
    assert (found % 2 == 1).all()  # of 75 signs, an odd number


def test_the_ends_are_in_full_precision_and_it_costs_what_the_other_form_does():
    net = made(32)
    kinds = [type(module) for module in net.modules() if isinstance(module, (nn.Conv2d, nn.Linear))]
    assert kinds == [nn.Conv2d, BinaryConv2d, BinaryConv2d, nn.Linear]
    assert macs(net, SHAPE) == 2_347_648
    # No biases of 64 + 64, two pairs for each normalised channel, and two scalars.
    assert params(net) == 178_986 - 128 + 2 * (32 + 64) + 2
    assert [value.item() for name, value in net.named_parameters() if "scale" in name] == pytest.approx([SCALE] * 2)


def test_it_learns_and_an_attack_finds_its_way_through():
    generator, labels = torch.Generator().manual_seed(1), torch.arange(64) % 4
    images = 0.3 * torch.rand(64, *SHAPE, generator=generator)
    for label in range(4):
        row, column = 14 * (label // 2), 14 * (label % 2)
        images[labels == label, :, row : row + 14, column : column + 14] += 0.5
    net = made().train()
    adam = torch.optim.Adam(net.parameters(), lr=1e-2)
    before = net.net.features[3].weight.detach().clone()
    for _ in range(30):
        adam.zero_grad()
        loss = F.cross_entropy(net(images), labels)
        loss.backward()
        adam.step()
    assert loss.item() < 0.3
    assert (before.sign() != net.net.features[3].weight.sign()).any()
    net.eval()
    attacked = Fgsm()(net, images, labels, Threat(eps=0.2), Noise(0, labels))
    assert F.cross_entropy(net(attacked), labels).item() > 2 * F.cross_entropy(net(images), labels).item()


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning")
def test_the_export_scores_alike(tmp_path):
    import onnxruntime

    net, images = made().eval(), torch.rand(32, *SHAPE)
    program = torch.onnx.export(
        net,
        (images[:2],),
        dynamo=True,
        dynamic_shapes=({0: torch.export.Dim.DYNAMIC},),
        opset_version=20,
        verbose=False,
    )
    program.save(tmp_path / "net.onnx")
    assert "Abs" not in {node.op_type for node in program.model_proto.graph.node}  # of the gradient alone
    session = onnxruntime.InferenceSession(tmp_path / "net.onnx", providers=["CPUExecutionProvider"])
    (found,) = session.run(None, {session.get_inputs()[0].name: images.numpy()})
    with torch.no_grad():
        assert torch.allclose(torch.from_numpy(found), net(images), atol=1e-5)


def test_channels_between_binary_layers_stay_and_the_refusal_says_why():
    with pytest.raises(BudgetError, match=r"features.3, whose weight is computed .* prune single weights instead"):
        OneShot(of="channels").wrap(made(), SHAPE, Budget(ops=0.9))
