"""Nets on digits that nobody here trained: layers of scikit-learn's, in the forms in which people ship them."""

import numpy as np
import onnx
import pytest

from robustdeploy.core.load import load_recipe
from robustdeploy.data.load import load_data

SMALL = [
    "evaluate.limit=40",
    "evaluate.curve_limit=20",
    "evaluate.eps_curve=[1.0]",
    "evaluate.attacks=[fgsm,{name: pgd, steps: 5, alpha: 0.05},{name: square, queries: 20}]",
]


@pytest.fixture(scope="session")
def recipe():
    return load_recipe("digits-resnet8", SMALL)


@pytest.fixture(scope="session")
def digits(recipe):
    return load_data(recipe.data)


@pytest.fixture(scope="session")
def mlp(digits):
    """A perceptron of scikit-learn, which saw pixels in [0, 1]."""
    from sklearn.neural_network import MLPClassifier

    images = digits.train.images.flatten(1).numpy() / np.float32(255)
    return MLPClassifier((32,), max_iter=60, random_state=0, tol=1e-2).fit(images, digits.train.labels.numpy())


@pytest.fixture(scope="session")
def layers(mlp):
    """Weights and biases of its two layers."""
    return [np.asarray(each, np.float32) for pair in zip(mlp.coefs_, mlp.intercepts_, strict=True) for each in pair]


@pytest.fixture
def saved(tmp_path):
    """Write a model beside the test and return its path."""

    def write(model, name="net.onnx"):
        onnx.save(model, tmp_path / name)
        return tmp_path / name

    return write
