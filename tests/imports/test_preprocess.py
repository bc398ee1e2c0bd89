"""Nets of others behind a recipe's preprocessing steps: what is deployed takes the camera's pixels."""

import numpy as np
import pytest
import torch
from perceptrons import perceptron

from robustdeploy.core.recipe import Choice
from robustdeploy.errors import ArtifactError, UsageError
from robustdeploy.imports.asked import Asked
from robustdeploy.imports.checkpoint import import_checkpoint
from robustdeploy.imports.onnx_net import import_onnx
from robustdeploy.nets.build import build_net
from robustdeploy.nets.graph import graph_of, session_of
from robustdeploy.nets.preprocess.steps import Steps, prepared_statistics
from robustdeploy.nets.store import load_info, load_net
from robustdeploy.onboard.types import pixels_from_bytes

UP = Choice(name="resize", options={"size": [16, 20], "antialias": True})
BACK = Choice(name="resize", options={"size": [10, 10], "interpolation": "bicubic"})
MIDDLE = Choice(name="crop", options={"size": [8, 8]})
NORMAL = Choice(name="normalise", options={"mean": [0.3], "std": [0.2]})


@pytest.fixture
def behind(recipe):
    def given(*steps):
        return recipe.model_copy(update={"preprocess": steps})

    return given


@pytest.mark.parametrize("opset", [13, 18, 23])
def test_a_file_is_deployed_behind_the_steps_with_its_own_scores(opset, behind, digits, layers, saved, tmp_path):
    recipe = behind(UP, BACK, MIDDLE)
    path = saved(perceptron(layers, opset=opset))
    info, told = import_onnx(path, Asked(values=(0.0, 1.0)), recipe, digits, tmp_path)
    assert (info.preprocess, info.image_shape) == (recipe.preprocess, digits.image_shape)
    assert info.graph.twin_problem == "", told
    assert not info.graph.unchanged
    assert "resize, size [16, 20], antialias True" in " ".join(told)
    images = digits.validation.images[:20].numpy()
    with torch.no_grad():
        read = Steps(recipe.preprocess)(torch.from_numpy(pixels_from_bytes(images))).numpy()
    first, second = layers[:2], layers[2:]
    wanted = np.maximum(read.reshape(20, -1) @ first[0] + first[1], 0) @ second[0] + second[1]
    net = load_net(tmp_path)
    deployed = session_of(graph_of(net).content).run(["scores"], {"images": pixels_from_bytes(images)})[0]
    scale = np.abs(wanted).max()
    assert np.abs(deployed - wanted).max() < 1e-5 * scale
    with torch.no_grad():
        twin = net(torch.from_numpy(pixels_from_bytes(images))).numpy()
    assert np.abs(twin - wanted).max() < 1e-5 * scale


def test_what_a_step_normalises_is_not_said_twice(behind, digits, layers, saved, tmp_path):
    path = saved(perceptron(layers))
    info, _ = import_onnx(path, Asked(), behind(NORMAL), digits, tmp_path)
    assert info.graph.values == "0..1"
    with pytest.raises(UsageError, match="leave one of them out"):
        import_onnx(path, Asked(values=(0.0, 255.0)), behind(NORMAL), digits, tmp_path)


def test_a_file_of_another_size_is_told_to_be_resized_in_front(behind, digits, layers, saved, tmp_path):
    path = saved(perceptron(layers))
    with pytest.raises(ArtifactError, match=r"preprocess=\[\{name: resize, size: \[8, 8\]\}\]"):
        import_onnx(path, Asked(), behind(UP), digits, tmp_path)


def test_weights_stand_behind_the_steps_with_the_statistics_of_what_they_read(behind, digits, tmp_path):
    recipe = behind(UP, MIDDLE).model_copy(update={"net": Choice(name="resnet8", options={"width": 4})})
    mean, std = prepared_statistics(recipe.preprocess, digits.image_shape, digits.mean, digits.std)
    torch.manual_seed(1)
    net = build_net(recipe.net, 10, digits.image_shape, mean, std, recipe.preprocess).eval()
    torch.save(net.net.state_dict(), tmp_path / "weights.pt")
    import_checkpoint(tmp_path / "weights.pt", Asked(mean=mean, std=std), recipe, digits, tmp_path)
    assert load_info(tmp_path).preprocess == recipe.preprocess
    images = torch.rand(3, *digits.image_shape)
    with torch.no_grad():
        torch.testing.assert_close(load_net(tmp_path)(images), net(images), atol=1e-5, rtol=1e-5)
    normalised = recipe.model_copy(update={"preprocess": (*recipe.preprocess, NORMAL)})
    with pytest.raises(UsageError, match="leave one of them out"):
        import_checkpoint(tmp_path / "weights.pt", Asked(mean=mean, std=std), normalised, digits, tmp_path)
