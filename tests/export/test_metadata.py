import onnx
import pytest
from onnx import helper

from robustdeploy.errors import ArtifactError
from robustdeploy.export.metadata import OnnxMetadata, image_properties, load_onnx, read_metadata, write_metadata

METADATA = OnnxMetadata(
    recipe_sha256="ab" * 32,
    threat="linf 8/255",
    norm="linf",
    eps=8 / 255,
    ops_ratio=0.2987654321,
    macs=12345,
    classes="cat\ndog, the second\nÄ",
    input_mean="0.1 0.2 0.3",
    input_std="0.4 0.5 0.6",
)


def test_what_is_written_is_read_again_bit_for_bit(tmp_path, net):
    model = onnx.load(net)
    helper.set_model_props(model, {"exporter.note": "old"})
    write_metadata(model, METADATA, 3, "what it is")
    path = tmp_path / "m.onnx"
    onnx.save(model, path)
    again = load_onnx(path)
    assert read_metadata(again) == METADATA
    entries = {entry.key: entry.value for entry in again.metadata_props}
    assert "exporter.note" not in entries
    assert entries["robustdeploy.schema"] == "1"
    assert entries.items() >= image_properties(3).items()
    assert (again.producer_name, again.doc_string) == ("robustdeploy", "what it is")


def test_another_tools_file_has_no_metadata_of_ours(net):
    with pytest.raises(ArtifactError, match="no complete robustdeploy metadata"):
        read_metadata(load_onnx(net))


@pytest.mark.parametrize("content", [b"", b"text, and no net at all", b"\x08\x09" * 40])
def test_a_file_that_is_no_onnx_is_told_in_one_line(tmp_path, content):
    path = tmp_path / "m.onnx"
    path.write_bytes(content)
    with pytest.raises(ArtifactError, match=r"m\.onnx is not a sound ONNX file") as caught:
        load_onnx(path)
    assert "\n" not in str(caught.value)


def test_a_truncated_or_missing_file_is_told(tmp_path, net):
    path = tmp_path / "m.onnx"
    path.write_bytes(net.read_bytes()[:-200])
    with pytest.raises(ArtifactError, match="not a sound ONNX file"):
        load_onnx(path)
    with pytest.raises(ArtifactError, match="does not exist"):
        load_onnx(tmp_path / "gone.onnx")
