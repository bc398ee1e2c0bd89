"""Nets of torchvision and timm that nobody here made: their exports and their weights are taken as they are."""

import warnings

import numpy as np
import pytest
import torch
from torch import nn

from robustdeploy.core.load import load_recipe
from robustdeploy.core.recipe import Choice
from robustdeploy.data.load import load_data
from robustdeploy.imports.asked import Asked
from robustdeploy.imports.checkpoint import import_checkpoint
from robustdeploy.imports.onnx_net import import_onnx
from robustdeploy.nets.graph import graph_of, session_of
from robustdeploy.nets.store import load_net
from robustdeploy.onboard.types import pixels_from_bytes

SAID = Asked(values=(0.0, 1.0), layout="nchw")


@pytest.fixture(scope="module")
def large():
    recipe = load_recipe("digits-resnet8", ["data.size=32"])
    return recipe, load_data(recipe.data)


class Coloured(nn.Module):
    """A net for colour images that is given grey ones."""

    def __init__(self, net):
        super().__init__()
        self.net = net

    def forward(self, images):
        return self.net(images.expand(-1, 3, -1, -1))


def of_torchvision(name, **options):
    import torchvision

    return Coloured(torchvision.models.get_model(name, num_classes=10, **options))


def of_timm(name, **options):
    import timm

    return timm.create_model(name, num_classes=10, in_chans=1, **options)


ZOO = {
    "torchvision-resnet18": lambda: of_torchvision("resnet18"),
    "torchvision-mobilenet": lambda: of_torchvision("mobilenet_v3_small"),
    "torchvision-densenet": lambda: of_torchvision("densenet121"),
    "torchvision-squeezenet": lambda: of_torchvision("squeezenet1_1"),
    "torchvision-shufflenet": lambda: of_torchvision("shufflenet_v2_x0_5"),
    "timm-vit": lambda: of_timm("vit_tiny_patch16_224", img_size=32, patch_size=8, depth=2),
    "timm-convnext": lambda: of_timm("convnext_atto"),
    "timm-efficientnet": lambda: of_timm("efficientnet_b0"),
    # Of a fresh net whose blocks begin as nothing, hardly an image reaches the scores, so there is nothing to follow.
    "timm-resnet": lambda: of_timm("resnet18", zero_init_last=False),
    "timm-mixer": lambda: of_timm("mixer_s16_224", img_size=32, num_blocks=2),
}


@pytest.mark.exhaustive
@pytest.mark.parametrize("opset", [18, 20, 23])
@pytest.mark.parametrize("name", ZOO)
def test_an_export_is_deployed_with_its_scores_and_followed(name, opset, large, tmp_path):
    recipe, data = large
    torch.manual_seed(0)
    net, path = ZOO[name]().eval(), tmp_path / "net.onnx"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            net,
            (torch.zeros(2, 1, 32, 32),),
            path,
            dynamo=True,
            opset_version=opset,
            external_data=False,
            verbose=False,
            dynamic_shapes=({0: torch.export.Dim("N", min=1, max=64)},),
        )
    info, told = import_onnx(path, SAID, recipe, data, tmp_path)
    assert info.graph.twin_problem == "", told
    loaded = load_net(tmp_path)
    pixels = torch.from_numpy(pixels_from_bytes(data.validation.images[:8].numpy())).requires_grad_()
    scores, own = loaded(pixels), net(pixels)
    (found,), (gradient,) = (torch.autograd.grad(each.amax(1).sum(), pixels) for each in (scores, own))
    assert (gradient.flatten(1).abs().amax(1) > 0).all()
    assert (found - gradient).abs().max() <= 1e-3 * gradient.abs().max()
    wanted = own.detach().numpy()
    scale = max(1.0, np.abs(wanted).max())
    deployed = session_of(graph_of(loaded).content).run(["scores"], {"images": pixels.detach().numpy()})[0]
    assert np.abs(deployed - wanted).max() <= 1e-4 * scale  # of another runtime
    assert np.abs(scores.detach().numpy() - deployed).max() <= 1e-4 * scale


@pytest.mark.exhaustive
@pytest.mark.parametrize(
    ("choice", "make"),
    [
        (Choice(name="timm.models:resnet18", options={"in_chans": 1}), lambda: of_timm("resnet18")),
        (Choice(name="timm.models:efficientnet_b0", options={"in_chans": 1}), lambda: of_timm("efficientnet_b0")),
    ],
    ids=["resnet18", "efficientnet"],
)
def test_weights_of_timm_fit_the_net_of_that_name(choice, make, large, tmp_path):
    recipe, data = large
    torch.manual_seed(0)
    net = make().eval()
    torch.save({"state_dict": {f"module.{k}": v for k, v in net.state_dict().items()}}, tmp_path / "net.pth")
    theirs = recipe.model_copy(update={"net": choice})
    import_checkpoint(tmp_path / "net.pth", Asked(values=(0.0, 1.0)), theirs, data, tmp_path, trust=True)
    images = torch.rand(3, 1, 32, 32)
    with torch.no_grad():
        torch.testing.assert_close(load_net(tmp_path, trust=True)(images), net(images), atol=1e-5, rtol=1e-5)
