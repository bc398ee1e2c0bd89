"""What every backend owes: an engine is the files in a folder, and what it is tied to can be told."""

import shutil

import numpy as np
import pytest

from robustdeploy.core.registry import BACKENDS
from robustdeploy.core.traits import DEVICE, traits_of
from robustdeploy.errors import ArtifactError, ToolchainError
from robustdeploy.onboard.engine import files_in
from robustdeploy.onboard.types import pixels_from_bytes


@pytest.fixture(params=BACKENDS.names())
def backend(request):
    return BACKENDS.build(request.param, {})


@pytest.fixture
def usable(backend):
    if not backend.probe().usable:
        pytest.skip(f"its toolchain is not usable here: {backend.probe().fix}")
    return backend


def test_an_engine_is_plain_files_that_work_in_any_folder(usable, net, images, tmp_path):
    for name in ("first", "second"):
        (tmp_path / name).mkdir()
    usable.compile(net, tmp_path / "first")
    listed = files_in(tmp_path / "first")
    for path in (tmp_path / "first").iterdir():
        shutil.move(path, tmp_path / "second" / path.name)
        (tmp_path / "second" / path.name).chmod(0o400)
    pixels = pixels_from_bytes(images)
    with usable.open(tmp_path / "second") as model:
        scores = model(pixels)
    with usable.open(tmp_path / "second") as model:
        np.testing.assert_array_equal(model(pixels), scores)
    assert scores.dtype == np.float32
    assert len(scores) == len(images)
    assert files_in(tmp_path / "second") == listed  # opening it changes nothing


def test_an_engine_without_its_file_is_refused(backend, tmp_path):
    (tmp_path / "strange").write_text("x")
    with pytest.raises((ArtifactError, ToolchainError)), backend.open(tmp_path):
        pytest.fail("an engine that is none was opened")


def test_what_it_is_tied_to_is_told_by_every_board_or_by_its_probe(usable):
    details = usable.probe().details
    assert [name for name in traits_of(type(usable)).tied_to if name not in (*DEVICE, *details)] == []


def test_what_a_backend_does_not_declare_is_the_careful_answer():
    class Silent:
        pass

    class Cross:
        CROSS_COMPILES = True

    silent = traits_of(Silent)
    assert (silent.tied_to, silent.builds_on_host, silent.cross_compiles, silent.stands_in) == (
        DEVICE,
        False,
        False,
        False,
    )
    assert traits_of(Cross).builds_on_host
