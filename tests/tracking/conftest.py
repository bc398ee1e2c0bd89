"""What a run tells, in the order in which it tells it."""

import pytest

from robustdeploy.core.recipe import Recipe
from robustdeploy.tracking.trackers import Trackers


@pytest.fixture
def recipe():
    return Recipe(name="small", evaluate={"attacks": ["fgsm", {"name": "pgd", "steps": 5}]})


@pytest.fixture
def epochs():
    """Records of epochs as ``metrics.jsonl`` has them; ``base`` makes them another training's."""

    def make(*numbers, base=0.0):
        return [{"epoch": n, "phase": "scores", "train_loss": base + 1 / n, "channels": 10 * n} for n in numbers]

    return make


@pytest.fixture
def listen(tmp_path, recipe):
    """Begin a run, or go on with it, with trackers that must not fail."""

    def begin(*plugins, run="run"):
        (tmp_path / run).mkdir(exist_ok=True)
        callback = Trackers(plugins, quiet=True)
        callback.begin(tmp_path / run, recipe)
        return callback

    return begin


@pytest.fixture(autouse=True)
def _no_tracker_fails(capsys):
    """What fails is left out, so that a test might show what is not there; those that expect it read the warning."""
    yield
    assert "warning:" not in capsys.readouterr().err
