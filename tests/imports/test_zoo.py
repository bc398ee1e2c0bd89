"""Nets of torchvision and timm that nobody here made: their exports and their weights are taken as they are."""

import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from robustdeploy.core.load import load_recipe
from robustdeploy.core.recipe import Choice
from robustdeploy.data.load import load_data
from robustdeploy.imports.asked import Asked
from robustdeploy.imports.checkpoint import import_checkpoint
from robustdeploy.imports.onnx_net import import_onnx
from robustdeploy.nets.graph import graph_of, session_of
from robustdeploy.nets.store import load_net
from robustdeploy.onboard.types import pixels_from_bytes

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))
from zoo import ZOO, exported, of_timm

SAID = Asked(values=(0.0, 1.0), layout="nchw")


@pytest.fixture(scope="module")
def large():
    recipe = load_recipe("digits-resnet8", ["data.size=32"])
    return recipe, load_data(recipe.data)


@pytest.mark.exhaustive
@pytest.mark.parametrize("opset", [18, 20, 23])
@pytest.mark.parametrize("name", ZOO)
def test_an_export_is_deployed_with_its_scores_and_followed(name, opset, large, tmp_path):
    recipe, data = large
    torch.manual_seed(0)
    net, path = ZOO[name]().eval(), tmp_path / "net.onnx"
    exported(net, path, opset)
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
