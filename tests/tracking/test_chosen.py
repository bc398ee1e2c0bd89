"""Trackers as the command line names them, and what is refused before any work."""

import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

from robustdeploy.core.registry import TRACKERS
from robustdeploy.errors import ToolchainError, UsageError
from robustdeploy.tracking.chosen import chosen
from robustdeploy.tracking.mlflow import Mlflow
from robustdeploy.tracking.tensorboard import TensorBoard

ROOT = Path(__file__).parents[2]
SITE = Path(sysconfig.get_path("purelib"))
CODE = """
import sys
sys.path[:0] = sys.argv[1:3]
sys.argv[1:3] = []
try:
    from robustdeploy.cli import main
    main()
finally:
    assert 'torch' not in sys.modules
"""


@pytest.fixture(scope="module")
def bare(tmp_path_factory):
    """This installation without the packages of the extras."""
    site = tmp_path_factory.mktemp("bare")
    for path in SITE.iterdir():
        if not path.name.startswith(("mlflow", "tensorboard", "robustdeploy", "_editable_impl_robustdeploy")):
            (site / path.name).symlink_to(path)
    return site


def test_a_name_may_have_options_and_these_may_have_any_signs():
    for package in ("mlflow", "sqlalchemy", "tensorboard"):
        pytest.importorskip(package)
    uri = "postgresql://me:a,b@host:5432/runs?options=-c%20x"
    words = ["tensorboard", f"mlflow:uri={uri},experiment=cars, 8=x", "tensorboard", "mlflow: experiment = cars"]
    assert chosen(words) == [TensorBoard(), Mlflow(uri, "cars, 8=x"), Mlflow(experiment="cars")]


@pytest.mark.parametrize(
    ("word", "text"),
    [
        ("tensorbord", "unknown tracker 'tensorbord'; did you mean 'tensorboard'?"),
        ("terminal", "unknown tracker 'terminal'"),
        ("", "unknown tracker ''"),
        ("mlflow:urk=x", "tracker 'mlflow': urk: unknown key (value 'x'); did you mean 'uri'?"),
        ("mlflow:uri", "'uri' is no option; write mlflow:option=value,option=value"),
        ("tensorboard:folder=x", "tracker 'tensorboard': folder: unknown key"),
    ],
)
def test_a_wrong_word_is_refused_with_what_would_be_right(word, text):
    with pytest.raises(UsageError) as refused:
        chosen([word])
    assert text in str(refused.value)
    assert not isinstance(refused.value, ToolchainError)


def test_the_page_has_every_tracker_and_every_option():
    page = (ROOT / "docs" / "tracking.md").read_text()
    for name in TRACKERS.names():
        assert f"--track {name}" in page
        for option in TRACKERS.json_schema(name).get("properties", {}):
            assert f"| `{option}` |" in page


@pytest.mark.parametrize(
    ("command", "word"),
    [("run", "mlflow"), ("prune", "tensorboard"), ("evaluate", "mlflow"), ("report", "tensorboard")],
)
def test_a_package_that_is_missing_is_named_with_its_extra_before_torch_is_loaded(bare, command, word, tmp_path):
    words = [sys.executable, "-S", "-W", "ignore", "-c", CODE, str(bare), str(ROOT), command, "--track", word]
    done = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 4, done.stderr
    said = f"error: the tracker {word} cannot work here: "
    assert done.stderr.startswith(said)
    assert f"not installed: pip install 'robustdeploy[{word}]'" in done.stderr
    assert done.stderr.count("\n") == 1
    assert list(tmp_path.iterdir()) == []
