"""What several tests of the evaluation begin with."""

import pytest
import torch
from torch import nn

from robustdeploy.evaluate.host import HostNet


@pytest.fixture
def host():
    """Return a linear net of three classes for images of 1×4×4, as the host holds it."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Flatten(), nn.Linear(16, 3)).eval()
    return HostNet(net, torch.device("cpu"), net)
