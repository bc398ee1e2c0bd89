"""A small net on digits in numpy, whose answer to an image does not depend on the images beside it."""

import numpy as np
import pytest
from sklearn.datasets import load_digits
from sklearn.neural_network import MLPClassifier

from robustdeploy.onboard.types import Threat, pixels_from_bytes


@pytest.fixture(scope="session")
def digits():
    data = load_digits()
    images = np.floor(data.images * (255 / 16)).astype(np.uint8)[:, None]
    return images, data.target.astype(np.int64)


@pytest.fixture(scope="session")
def net(digits):
    images, labels = digits
    mlp = MLPClassifier((32,), max_iter=60, random_state=0, tol=0.0, n_iter_no_change=1000, early_stopping=False)
    with pytest.warns(UserWarning, match="Maximum iterations"):
        mlp.fit(pixels_from_bytes(images[:1400]).reshape(1400, -1), labels[:1400])
    first, second = (np.asarray(w, np.float64) for w in mlp.coefs_)
    one, two = mlp.intercepts_

    def scores(pixels):
        # Summed by einsum, whose order does not depend on the batch, so that equal images get equal bits.
        flat = pixels.reshape(len(pixels), -1).astype(np.float64)
        hidden = np.maximum(np.einsum("nd,dh->nh", flat, first) + one, 0)
        return (np.einsum("nh,hc->nc", hidden, second) + two).astype(np.float32)

    return scores


@pytest.fixture(scope="session")
def subject(digits, net):
    images, labels = (part[1400:1700] for part in digits)
    right = net(pixels_from_bytes(images)).argmax(1) == labels
    return images[right], labels[right]


@pytest.fixture(scope="session")
def threat():
    return Threat(eps=24 / 255)


@pytest.fixture(scope="session")
def robust(net):
    """Returns the share of images that stand."""
    return lambda images, labels: (net(pixels_from_bytes(images)).argmax(1) == labels).mean()
