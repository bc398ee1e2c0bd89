"""Carlini and Wagner's attack against the closed form on a linear net, and against another implementation."""

import pytest
import torch
from test_deepfool import N, exact, linear, reached
from torch import nn

from robustdeploy.attacks.distance.cw import CarliniWagner
from robustdeploy.attacks.distance.deepfool import DeepFool
from robustdeploy.attacks.distance.protocol import is_wrong, l2_norms


@pytest.mark.parametrize("box", [False, True])
def test_on_a_linear_net_of_two_classes_it_is_the_closed_form(box):
    net, images, labels = linear(classes=2)
    images, labels = images[:60], labels[:60]
    found = reached(CarliniWagner(box=box), net, images, labels)
    distances, closed = l2_norms(found - images), torch.tensor(exact(net, images, labels, box=box))
    assert is_wrong(net, found, labels).all()
    assert (distances >= closed * (1 - 1e-4) - 1e-6).all()
    assert (distances <= 1.05 * closed + 1e-4).all()
    assert distances.mean() == pytest.approx(closed.mean().item(), rel=0.01)


def test_with_many_classes_the_mean_is_within_two_percent():
    net, images, labels = linear()
    images, labels = images[:60], labels[:60]
    distances = l2_norms(reached(CarliniWagner(steps=100), net, images, labels) - images)
    closed = torch.tensor(exact(net, images, labels, box=True))
    assert (distances >= closed * (1 - 1e-4) - 1e-6).all()
    # Per image it may settle on another class than the nearest.
    assert closed.mean() <= distances.mean() <= 1.02 * closed.mean()


def test_where_nothing_grows_the_image_itself_is_returned():
    net, images, _ = linear()
    nn.init.zeros_(net[1].weight)
    labels = torch.full((N,), int(net[1].bias.argmax()))
    few = images[:5], labels[:5]
    assert torch.equal(reached(CarliniWagner(steps=20, searches=3), net, *few), images[:5])


@pytest.mark.exhaustive
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning")
def test_no_farther_than_the_adversarial_robustness_toolbox(trained, held_out):
    from art.attacks.evasion import CarliniL2Method
    from art.attacks.evasion import DeepFool as TheirDeepFool
    from art.estimators.classification import PyTorchClassifier

    images, labels = held_out
    right = ~is_wrong(trained, images, labels)
    images, labels = images[right][:12], labels[right][:12]
    classifier = PyTorchClassifier(trained, nn.CrossEntropyLoss(), (1, 8, 8), 10, clip_values=(0.0, 1.0))
    theirs = {
        "cw": CarliniL2Method(
            classifier, max_iter=30, binary_search_steps=5, learning_rate=0.05, batch_size=12, verbose=False
        ),
        "deepfool": TheirDeepFool(classifier, max_iter=20, epsilon=0.02, batch_size=12, verbose=False),
    }
    ours = {"cw": CarliniWagner(), "deepfool": DeepFool(box=True)}
    for name, attack in theirs.items():
        found = torch.from_numpy(attack.generate(images.numpy(), None if name == "deepfool" else labels.numpy()))
        own = reached(ours[name], trained, images, labels)
        assert is_wrong(trained, own, labels).all()
        both = is_wrong(trained, found, labels)
        assert both.float().mean() > 0.5  # of so few steps theirs leaves some standing
        # A larger distance is a weaker attack: 3 % is what the same search may differ by from start to start.
        assert l2_norms(own - images)[both].mean() <= 1.03 * l2_norms(found - images)[both].mean()
