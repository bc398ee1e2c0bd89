"""Latency of a budget: the profile that a training follows, and the device that has the last word."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
from torch import nn

from robustdeploy.core.files import sha256_of_file, temporary_folder
from robustdeploy.core.recipe import Choice
from robustdeploy.core.registry import PRECISIONS
from robustdeploy.core.subject import FP32
from robustdeploy.core.target import Target
from robustdeploy.devices.board import Board
from robustdeploy.devices.build import build_engine
from robustdeploy.devices.profiles import (
    again,
    check_device,
    kept_profile,
    net_of,
    profile_path,
    profiles_beside,
    timed_on,
)
from robustdeploy.evaluate.profiling import Floats, device_of, undisturbed
from robustdeploy.export.metadata import NO_METADATA
from robustdeploy.export.onnx_file import export_onnx
from robustdeploy.prune.latency import LatencyGoal
from robustdeploy.stages.session import Session
from robustdeploy.train.start import starting_net

_CALIBRATION = 8
_COPIES = 3


def latency_goal(session: Session, *, measuring: bool) -> LatencyGoal | None:
    """Return what the recipe's limit on latency means, after a look at the device; None without such a limit.

    UsageError where there is no profile, ToolchainError where that is of another device. With ``measuring`` nets can be
    measured by it.
    """
    limit = session.asked.budget.latency
    if limit is None:
        return None
    target, precision = timed_on(session.asked, limit)
    command = again(session.asked, target, precision)
    profile = kept_profile(session.asked, limit, profiles_beside(session.run.root.parent))
    check_device(profile, session.fleet(target).first(lambda board: device_of(board, target)), command)
    # Hours of training lie before the next question, and a silent connection is easily lost.
    session.leave(target)
    measure = partial(_measured, session, target, precision) if measuring else None
    return LatencyGoal(profile, limit.limit_us(profile.dense_us), measure)


def profile_inputs(session: Session) -> dict[str, str]:
    """Return the SHA-256 of the profile that the training follows; nothing without a limit on latency."""
    limit = session.asked.budget.latency
    if limit is None:
        return {}
    target, precision = timed_on(session.asked, limit)
    path = profile_path(profiles_beside(session.run.root.parent), target.name, precision.name, net_of(session.asked))
    return {"profile": sha256_of_file(path)} if path.is_file() else {}


def _measured(session: Session, target: Target, precision: Choice, compact: nn.Module) -> float:
    """Return the time of ``compact`` on ``target`` over that of the dense net, by turns."""
    dense = starting_net(session.asked, session.training_data, next(compact.parameters()).device)
    image_shape = session.training_data.image_shape
    silent: Callable[[str, int, int], None] = lambda what, done, total: None  # noqa: E731

    def timed(board: Board) -> Floats:
        engines = []
        with temporary_folder() as folder:
            for name, net in (("dense", dense), ("compact", compact)):
                place = folder / name
                place.mkdir()
                onnx = _exported(net.eval(), image_shape, target.opset, precision, place)
                built = build_engine(board, target, onnx, session.agent, place / "engine", silent)
                board.send(place / "engine", built.files)
                engines.append(built.files)
        # More than one of each: where an engine's memory lies moves its time.
        return undisturbed(board, target, [*engines[:1] * _COPIES, *engines[1:] * _COPIES], image_shape)

    times = session.fleet(target).first(timed)
    session.leave(target)
    found = float(np.median(times[_COPIES:]) / np.median(times[:_COPIES]))
    session.callback.say(
        f"latency: the pruned net takes {found:.3f} of the dense net's time on {target.name}, by turns"
    )
    return found


def _exported(net: nn.Module, image_shape: tuple[int, int, int], opset: int, precision: Choice, folder: Path) -> Path:
    onnx = folder / "fp32.onnx"
    export_onnx(net, image_shape, onnx, opset, NO_METADATA)
    if precision.name == FP32:
        return onnx
    images = np.random.default_rng(0).random((_CALIBRATION, *image_shape), dtype=np.float32)
    PRECISIONS.build(precision.name, precision.options).lower(onnx, folder / "model.onnx", images)
    return folder / "model.onnx"
