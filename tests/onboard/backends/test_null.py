import numpy as np
import pytest

from robustdeploy.errors import ArtifactError
from robustdeploy.onboard.backends.null import Null


@pytest.fixture
def engine(tmp_path):
    (tmp_path / "net.onnx").write_bytes(b"anything")
    (tmp_path / "engine").mkdir()
    Null(classes=7).compile(tmp_path / "net.onnx", tmp_path / "engine")
    return tmp_path / "engine"


def test_equal_images_get_equal_bits_in_every_batch(engine):
    images = np.random.default_rng(0).integers(0, 256, (50, 3, 5, 5)).astype(np.float32) / np.float32(255)
    with Null().open(engine) as net:
        whole = net(images)
        assert whole.dtype == np.float32
        assert whole.shape == (50, 7)
        assert len(np.unique(whole.argmax(1))) > 1
        np.testing.assert_array_equal(np.concatenate([net(images[i : i + 3]) for i in range(0, 50, 3)]), whole)
    with Null().open(engine) as again:
        np.testing.assert_array_equal(again(images), whole)


def test_another_file_gives_other_scores(engine, tmp_path):
    (tmp_path / "other.onnx").write_bytes(b"something else")
    (tmp_path / "second").mkdir()
    Null(classes=7).compile(tmp_path / "other.onnx", tmp_path / "second")
    images = np.ones((1, 1, 4, 4), np.float32)
    with Null().open(engine) as one, Null().open(tmp_path / "second") as two:
        assert (one(images) != two(images)).any()


@pytest.mark.parametrize(
    "text", ["", "{}", "[]", '{"null_engine": 1, "classes": 1}', '{"null_engine": 2}', "[" * 100_000]
)
def test_a_file_that_is_no_engine_is_refused(tmp_path, text):
    (tmp_path / "engine.json").write_text(text)
    with pytest.raises(ArtifactError, match="compile it again"), Null().open(tmp_path):
        pass
