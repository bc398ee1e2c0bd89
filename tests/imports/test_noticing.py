"""A net that is read otherwise than it was trained is noticed, and what fits is named."""

import numpy as np
import pytest
import torch
from onnx import TensorProto
from perceptrons import perceptron

from robustdeploy.core.recipe import Choice
from robustdeploy.errors import UsageError
from robustdeploy.imports.asked import Asked
from robustdeploy.imports.checkpoint import import_checkpoint
from robustdeploy.imports.noticing import notice
from robustdeploy.imports.onnx_net import import_onnx


def test_a_wrong_range_is_named_and_never_chosen(layers, saved, recipe, digits, tmp_path):
    path = saved(perceptron(layers, scale=255.0))
    with pytest.raises(UsageError, match=r"with --range 0..255: import it again"):
        import_onnx(path, Asked(), recipe, digits, tmp_path)
    _, told = import_onnx(path, Asked(values=(0.0, 255.0)), recipe, digits, tmp_path)
    assert not any("held-out images right" in each for each in told)
    _, told = import_onnx(path, Asked(values=(-1.0, 1.0)), recipe, digits, tmp_path)
    assert any("with --range 0..255" in each for each in told)


def test_a_wrong_layout_is_named(layers, saved, recipe, digits, tmp_path):
    # Rows and columns of 8 and one channel, all of them free: nothing but the images tells the order.
    order = np.arange(64).reshape(8, 8).T.reshape(-1)
    turned = [layers[0][order], *layers[1:]]
    _, told = import_onnx(saved(perceptron(turned)), Asked(values=(0.0, 1.0), layout="nchw"), recipe, digits, tmp_path)
    assert "other ranges and layouts fit no better" in told[-1]


def test_outputs_in_another_order_are_noticed(layers, saved, recipe, digits, tmp_path):
    order = [3, 1, 4, 0, 5, 9, 2, 6, 8, 7]
    wide = [*layers[:2], layers[2][:, order], layers[3][order]]
    path = saved(perceptron(wide, element=TensorProto.UINT8, scale=255.0))
    _, told = import_onnx(path, Asked(), recipe, digits, tmp_path)
    assert "with --labels and these lines: 3, 1, 4, 0, 5, 9, 2, 6, 8, 7" in told[-1]


def test_the_normalisation_of_weights_is_noticed(layers, recipe, digits, tmp_path):
    first, bias, second, last = map(torch.from_numpy, layers)
    # Trained on pixels from 0 to 255, and the data set's own normalisation is what is guessed.
    state = {"1.weight": first.T / 255, "1.bias": bias, "3.weight": second.T, "3.bias": last}
    torch.save({name: value.contiguous() for name, value in state.items()}, tmp_path / "net.pt")
    theirs = recipe.model_copy(update={"net": Choice(name="perceptrons:of_torch")})
    with pytest.raises(UsageError, match=r"with --range 0..255: import it again"):
        import_checkpoint(tmp_path / "net.pt", Asked(), theirs, digits, tmp_path, trust=True)
    said = Asked(values=(0.0, 255.0))
    _, told = import_checkpoint(tmp_path / "net.pt", said, theirs, digits, tmp_path, trust=True)
    assert not told


def test_what_fits_is_named_and_stops_only_what_was_guessed(digits):
    labels = digits.validation.labels.numpy()
    others = {"--range 0..255": lambda: labels, "--range 0..1": lambda: np.zeros_like(labels)}
    with pytest.raises(UsageError, match=r"with --range 0..255"):
        notice(np.zeros_like(labels), labels, others, digits.classes, sure=False)
    assert "with --range 0..255" in notice(np.zeros_like(labels), labels, others, digits.classes, sure=True)
    assert notice(labels, labels, others, digits.classes, sure=False) == ""
