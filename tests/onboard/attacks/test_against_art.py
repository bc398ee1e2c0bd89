"""Our query attacks beside those of the Adversarial Robustness Toolbox: how many images stand after as many queries."""

from contextlib import suppress

import numpy as np
import pytest

from robustdeploy.core.registry import QUERY_ATTACKS
from robustdeploy.onboard.draws import Draws
from robustdeploy.onboard.types import pixels_from_bytes

QUERIES = 300


class Enough(Exception):
    """The image fell, or its queries are spent."""


class Watched:
    """Answers as ``net`` does, and stops at the first wrong image inside the box or after `QUERIES`."""

    def __init__(self, net, pixels, label, eps):
        self.net, self.pixels, self.label, self.eps = net, pixels, label, eps
        self.left, self.fell = QUERIES, False

    def __call__(self, asked):
        asked = asked.astype(np.float32)[: self.left]
        scores = self.net(asked)
        inside = np.abs(asked - self.pixels).reshape(len(asked), -1).max(1) <= self.eps + 1e-6
        self.fell |= bool((inside & (scores.argmax(1) != self.label)).any())
        self.left -= len(asked)
        if self.fell or self.left == 0:
            raise Enough
        likely = np.exp(scores - scores.max(1, keepdims=True))  # ART's SimBA asks for probabilities
        return likely / likely.sum(1, keepdims=True)


def simba(estimator, eps):
    from art.attacks.evasion import SimBA

    return SimBA(estimator, attack="px", max_iter=QUERIES, epsilon=eps, order="random", batch_size=1, verbose=False)


def hop_skip_jump(estimator, eps):
    from art.attacks.evasion import HopSkipJump

    return HopSkipJump(estimator, norm=np.inf, max_iter=50, verbose=False)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("ours", "options", "theirs"), [("simba", {"basis": "pixel"}, simba), ("hop-skip-jump", {}, hop_skip_jump)]
)
def test_it_leaves_no_more_images_standing_than_art_does(ours, options, theirs, net, subject, threat, robust):
    from art.estimators.classification import BlackBoxClassifierNeuralNetwork

    images, labels = (part[:100] for part in subject)
    np.random.seed(0)
    stand = 0
    for pixels, label in zip(pixels_from_bytes(images), labels, strict=True):
        watched = Watched(net, pixels, label, threat.eps)
        estimator = BlackBoxClassifierNeuralNetwork(
            watched, images.shape[1:], 10, channels_first=True, clip_values=(0.0, 1.0)
        )
        with suppress(Enough):
            theirs(estimator, threat.eps).generate(pixels[None], np.eye(10)[[label]])
        stand += not watched.fell
    attack = QUERY_ATTACKS.build(ours, {"queries": QUERIES, **options})
    standing = robust(attack(net, images, labels, threat, Draws(0, np.arange(100))), labels) * 100
    # Both search at random. Where neither is better, so large a gap is met once in forty times: a quarter of the 100
    # images at most go either way, and two standard errors of their difference are twice the root of their number.
    assert standing <= stand + 2 * 25**0.5
