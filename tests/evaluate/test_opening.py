import dataclasses

import numpy as np
import pytest

from robustdeploy.core.load import load_target
from robustdeploy.core.target import Toolchain
from robustdeploy.devices.build import build_engine
from robustdeploy.devices.fleet import fleet_of
from robustdeploy.errors import ArtifactError, BoardError
from robustdeploy.evaluate.opening import golden_diagnostic, open_on
from robustdeploy.onboard.types import pixels_from_bytes


@pytest.fixture
def export(net, tmp_path):
    (tmp_path / "model.onnx").write_bytes(net.read_bytes())
    return tmp_path


@pytest.fixture
def golden(images, weights):
    return {"images": images, "scores": pixels_from_bytes(images).reshape(len(images), -1) @ weights}


def opened(agent, export, golden, backend="onnxruntime", options=None):
    target = load_target("host-cpu").model_copy(update={"backend": Toolchain(name=backend, options=options or {})})
    engine = export / "engine"
    with fleet_of(target, agent, print) as fleet:
        built = build_engine(fleet.boards[0], target, export / "model.onnx", agent, engine, lambda *_: None)
    with fleet_of(target, agent, print) as fleet:  # another board, which has nothing of it yet
        return open_on(fleet.boards[0], target, built, engine, golden)


def test_the_net_itself_is_recognised(agent, export, golden):
    found = opened(agent, export, golden)
    assert found.classes == 5
    assert found.golden_gap < 1e-4
    assert golden_diagnostic(found).level == "ok"
    coarse = opened(agent, export, {**golden, "scores": golden["scores"] + np.float32(0.1)})
    assert golden_diagnostic(coarse).level == "warn"


@pytest.mark.parametrize("change", [lambda s: s[:, ::-1], lambda s: s + 5, lambda s: 2 * s, lambda s: -s])
def test_another_net_on_the_board_ends_the_evaluation(agent, export, golden, change):
    with pytest.raises(BoardError, match=r"'score' cannot be right: 'scores' differs by up to .*another net answers"):
        opened(agent, export, {**golden, "scores": change(golden["scores"])})


def test_another_number_of_classes_ends_the_evaluation(agent, export, golden):
    with pytest.raises(BoardError, match=r"'scores' must be float32 of shape 30×4, not float32 of shape 30×5"):
        opened(agent, export, {**golden, "scores": golden["scores"][:, :4]})


def test_a_backend_that_does_not_compute_the_net_passes_nothing(agent, export, golden):
    found = golden_diagnostic(opened(agent, export, golden, "null", {"classes": 5}))
    assert found.level == "block"
    assert "does not compute the net" in found.text


def test_an_engine_larger_than_the_targets_memory_is_refused_before_it_is_sent(agent, export, golden, monkeypatch):
    target = load_target("host-cpu").model_copy(update={"memory_limit_mib": 1})
    with fleet_of(target, agent, print) as fleet:
        built = build_engine(fleet.boards[0], target, export / "model.onnx", agent, export / "engine", lambda *_: None)
    (file,) = built.files
    large = built.model_copy(update={"files": (dataclasses.replace(file, bytes=3 << 20),)})
    with fleet_of(target, agent, print) as fleet:
        board, sent = fleet.boards[0], []
        monkeypatch.setattr(board, "send", lambda *given: sent.append(given))
        with pytest.raises(ArtifactError, match=r"the engine has 3\.0 MiB, and host-cpu allows its process 1 MiB"):
            open_on(board, target, large, export / "engine", golden)
        assert sent == []
