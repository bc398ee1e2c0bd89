"""Starting: the trained net that a training is asked to begin with, where it is a file of others."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from robustdeploy.cli.heavy import api
from robustdeploy.core.callback import Callback
from robustdeploy.core.given import is_net_file, kind_of_net


def started(start: Path | None, recipe: str, how: Sequence[str], runs: Path, callback: Callback) -> Path | None:
    """Return ``start``, or the run that a file of weights becomes: with the data and the net of ``recipe``.

    ``how`` are overrides of the recipe. An ONNX file, which cannot be trained, is an ArtifactError.
    """
    if start is None or not is_net_file(start):
        return start
    kind_of_net(start, "weights")
    root: Path = api.import_net(start, recipe, overrides=how, runs=runs, callback=callback).root
    return root
