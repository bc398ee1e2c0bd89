import pytest
import torch

from robustdeploy.core.recipe import Choice
from robustdeploy.nets.build import build_net


@pytest.fixture(scope="session")
def resnet():
    torch.manual_seed(0)
    return build_net(Choice(name="resnet8", options={"width": 4}), 3, (1, 8, 8), (0.3,), (0.2,)).eval()
