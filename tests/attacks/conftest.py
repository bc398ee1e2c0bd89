"""A small net trained on digits, half robust, so that attacks have something to do and something to fail at."""

import pytest
import torch

from robustdeploy.core.recipe import Data, Train
from robustdeploy.data.load import load_data
from robustdeploy.nets.normalised import Normalised
from robustdeploy.nets.residual import ResidualNet
from robustdeploy.onboard.types import Threat
from robustdeploy.train.loop import fit
from robustdeploy.train.plan import Plan, single_phase
from robustdeploy.train.tasks.fastat import FastAt


@pytest.fixture(scope="session")
def digits():
    return load_data(Data(validation=0.3))


@pytest.fixture(scope="session")
def trained(digits, tmp_path_factory):
    torch.manual_seed(0)
    net = Normalised(ResidualNet(1, (8, 8, 16), 10, 1), [0.3], [0.4])
    options = Train(epochs=8, batch_size=64, lr=0.2)
    plan = Plan(
        train=digits.train,
        validation=digits.validation,
        phases=(single_phase(FastAt(), options),),
        threat=Threat(eps=0.05),
        options=options,
        seed=0,
    )
    fit(net, None, plan, tmp_path_factory.mktemp("trained"), lambda *said: None)
    return net.eval()


@pytest.fixture(scope="session")
def held_out(digits):
    chosen = digits.validation.select(torch.arange(256))
    return chosen.images.float() / 255, chosen.labels


@pytest.fixture
def art_classifier():
    """Hands a net on digits to the Adversarial Robustness Toolbox."""
    from art.estimators.classification import PyTorchClassifier

    def made(net):
        loss = torch.nn.CrossEntropyLoss()
        return PyTorchClassifier(net, loss, (1, 8, 8), 10, clip_values=(0.0, 1.0), device_type="cpu")

    return made
