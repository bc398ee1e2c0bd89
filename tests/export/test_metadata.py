import onnx
from onnx import helper

from robustdeploy.export.metadata import PREFIX, OnnxMetadata, image_properties, write_metadata

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
    again = onnx.load(path)
    entries = {entry.key: entry.value for entry in again.metadata_props}
    ours = {key.removeprefix(PREFIX): value for key, value in entries.items() if key.startswith(PREFIX)}
    assert OnnxMetadata.model_validate(ours) == METADATA
    assert "exporter.note" not in entries
    assert entries["robustdeploy.schema"] == "1"
    assert entries.items() >= image_properties(3).items()
    assert (again.producer_name, again.doc_string) == ("robustdeploy", "what it is")
