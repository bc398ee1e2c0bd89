"""Files of a run that are damaged, and sealed again so that every hash agrees: one sentence, and no traceback."""

import hashlib
import io
import os
import re
import shutil

import numpy as np
import pytest
import safetensors.torch
import torch

from robustdeploy.nets import store

pytestmark = pytest.mark.slow

EXPORT, EVALUATE, REPORT, SKIPPED = (
    ["export", "--target", "quick.yaml", "--force"],
    ["evaluate", "--target", "quick.yaml", "--force"],
    ["report"],
    ["evaluate", "--target", "quick.yaml"],
)


def npz(arrays, **changed):
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **{name: a for name, a in {**arrays, **changed}.items() if a is not None})
    return buffer.getvalue()


def arrays_of(content):
    with np.load(io.BytesIO(content)) as held:
        return dict(held)


def flipped(content):
    middle = len(content) // 2
    return content[:middle] + bytes([content[middle] ^ 0xFF]) + content[middle + 1 :]


ANY = {"empty": lambda c: b"", "cut": lambda c: c[: len(c) // 2], "other": lambda c: b"\x80\x04]\x94." * 50}
HELD_OUT = {
    **ANY,
    "flipped": flipped,
    "pickled": lambda c: npz(arrays_of(c), labels=np.array([{"a": 1}], object)),
    "floats": lambda c: npz(arrays_of(c), images=arrays_of(c)["images"].astype(np.float32)),
    "shape": lambda c: npz(arrays_of(c), images=arrays_of(c)["images"][:, :, :4]),
    "count": lambda c: npz(arrays_of(c), labels=arrays_of(c)["labels"][1:]),
    "classes": lambda c: npz(arrays_of(c), labels=arrays_of(c)["labels"] + 10),
    "negative": lambda c: npz(arrays_of(c), labels=arrays_of(c)["labels"] - 10),
    "missing": lambda c: npz(arrays_of(c), labels=None),
    "none": lambda c: npz({name: a[:0] for name, a in arrays_of(c).items()}),
    "a bomb": lambda c: npz(arrays_of(c), more=np.zeros(2**26, np.uint8)),
}


GOLDEN = {
    **{name: change for name, change in HELD_OUT.items() if name not in ("classes", "negative")},
    "scores": lambda c: npz(arrays_of(c), scores=arrays_of(c)["scores"][:, 1:]),
    "NaN": lambda c: npz(arrays_of(c), scores=arrays_of(c)["scores"] * np.nan),
    "upwards": lambda c: c.replace(b"scores.npy", b"../res.npy"),
}
TEXT = {
    **ANY,
    "deep": lambda c: b"[" * 100_000,
    "long number": lambda c: b"1" * 100_000,
    "NaN": lambda c: b'{"measurements": NaN}',
    "a list": lambda c: b"[]",
    "a string": lambda c: b'"x"',
}
ROWS = {
    **TEXT,
    "no number": lambda c: c.replace(b'"value": ', b'"value": "x", "was": ', 1),
    "no metric": lambda c: c.replace(b'"metric"', b'"matrix"', 1),
}
DAMAGE = [
    *(("nets/pruned", "held_out.npz", EXPORT, name, HELD_OUT[name]) for name in HELD_OUT),
    *(("onnx/pruned/fp32", "golden.npz", EVALUATE, name, GOLDEN[name]) for name in GOLDEN),
    *(("nets/pruned", "net.json", EXPORT, name, TEXT[name]) for name in TEXT),
    *(("nets/pruned", "model.safetensors", EXPORT, name, ANY[name]) for name in ANY),
    ("nets/pruned", "model.safetensors", EXPORT, "huge header", lambda c: (2**40).to_bytes(8, "little") + c[8:]),
    *(("boards/pruned/fp32@quick", "rows.json", REPORT, name, ROWS[name]) for name in ROWS),
    *(
        ("boards/pruned/fp32@quick", "rows.json", SKIPPED, name, ROWS[name])
        for name in ("empty", "no number", "no metric")
    ),
    *(
        ("boards/pruned/fp32@quick", "facts.json", REPORT, name, TEXT[name])
        for name in TEXT
        if name not in ("a string",)
    ),
]


@pytest.mark.parametrize(
    ("place", "name", "words", "change"),
    [(place, name, words, change) for place, name, words, _, change in DAMAGE],
    ids=[f"{name}: {what}, {words[0]}" for _, name, words, what, _ in DAMAGE],
)
@pytest.mark.alike(20)
def test_a_damaged_file_that_was_sealed_again_is_one_sentence_with_the_fix(
    desk, command, reseal, place, name, words, change
):
    run = desk / "runs/tiny"
    reseal(run, place, {name: change((run / place / name).read_bytes())})
    done = command(desk, *words)
    assert done.code == 2, (done.code, done.out, done.err)
    assert "Traceback" not in done.err
    said = done.err[done.err.index("error: ") :].strip()
    assert name.partition(".")[0] in said, said
    assert len(said.splitlines()) == 1, said
    assert len(said) < 600
    assert any(fix in said for fix in ("again", "was edited")), said
    advised = re.findall(r"`robustdeploy ([^`]*)`", said)
    assert all("runs/tiny" in command for command in advised), said


FACTS = [
    ("nets/pruned", EXPORT, {"macs": "many"}),
    ("nets/pruned", EXPORT, {"macs": None}),
    ("nets/pruned", EXPORT, {"dense_macs": 0}),
    ("nets/pruned", REPORT, {"channels": [{"layer": 3}]}),
    ("nets/pruned", REPORT, {"data": []}),
    ("onnx/pruned/fp32", EVALUATE, {"parity": {}}),
    ("onnx/pruned/fp32", REPORT, {"counts": "x"}),
    ("onnx/pruned/fp32", REPORT, {"zeros": {"nonzero_macs": -1}}),
    ("boards/pruned/fp32@quick", REPORT, {"n": "60"}),
    ("boards/pruned/fp32@quick", REPORT, {"engine": None}),
]


@pytest.mark.parametrize(("place", "words", "facts"), FACTS, ids=str)
def test_facts_that_are_not_what_later_stages_read_are_named(desk, command, reseal, place, words, facts):
    reseal(desk / "runs/tiny", place, {}, facts=facts)
    done = command(desk, *words)
    assert done.code == 2, done.err
    assert f"manifest.json: facts.{next(iter(facts))}" in done.err
    assert "Traceback" not in done.err


PARAMETERS = [
    ("boards/pruned/fp32@quick", {"target": True}),
    ("boards/pruned/fp32@quick", {"target": {"backend": []}}),
    ("boards/pruned/fp32@quick", {"target": ["quick"]}),
    ("boards/pruned/fp32@quick", {"evaluate": None}),
    ("boards/pruned/fp32@quick", {"evaluate": {"limit": "many"}}),
]


@pytest.mark.parametrize(("place", "parameters"), PARAMETERS, ids=str)
def test_parameters_that_are_not_what_later_stages_read_are_refused(desk, command, reseal, place, parameters):
    reseal(desk / "runs/tiny", place, {}, parameters=parameters)
    for words in (SKIPPED, REPORT, ["gate"], ["compare", "tiny", "tiny"], ["verify"]):
        done = command(desk, *words)
        assert (done.code, "Traceback" in done.err, place in done.err) == (2, False, True), (words, done.err)


OUTPUTS = ["../../../x", "/etc/passwd", "a\0b", "loop", "\x1b]52;c;aGk=\x07", "name\nPASS"]


@pytest.mark.parametrize("name", OUTPUTS)
@pytest.mark.parametrize("words", [REPORT, ["verify"]])
def test_a_manifest_that_names_files_elsewhere_is_not_followed(desk, command, reseal, name, words):
    run = desk / "runs/tiny"
    (run / "boards/pruned/fp32@quick/loop").symlink_to("loop")
    reseal(run, "boards/pruned/fp32@quick", {}, outputs={name: "0" * 64})
    done = command(desk, *words)
    assert done.code == 2
    assert "Traceback" not in done.err
    assert "\x1b" not in done.err
    assert "\nPASS" not in done.err
    assert "boards/pruned/fp32@quick" in done.err


def test_a_stage_that_is_a_link_out_of_the_run_is_neither_read_nor_written(desk, command, tmp_path):
    run, there = desk / "runs/tiny", tmp_path / "there"
    shutil.move(run / "onnx/pruned/fp32", there)
    (run / "onnx/pruned/fp32").symlink_to(there)
    before = sorted(path.stat().st_mtime_ns for path in there.iterdir())
    for words in (EVALUATE, ["export", "--target", "quick.yaml"], EXPORT):
        done = command(desk, *words)
        assert done.code == 2
        assert "link" in done.err
    assert sorted(path.stat().st_mtime_ns for path in there.iterdir()) == before


@pytest.mark.parametrize("make", [os.mkfifo, lambda path: path.mkdir(), lambda path: path.symlink_to("/dev/zero")])
@pytest.mark.parametrize(
    "name", ["held_out.npz", "model.safetensors", "net.json", "manifest.json", "masks.safetensors"]
)
def test_something_else_in_a_files_place_is_not_waited_for(desk, command, name, make):
    path = desk / "runs/tiny/nets/pruned" / name
    path.unlink()
    make(path)
    for words in (EXPORT, ["verify"]):
        done = command(desk, *words)
        assert done.code == 2
        assert "Traceback" not in done.err
        assert name in done.err


@pytest.mark.parametrize(("value", "layer"), [(float("nan"), "net.conv.weight"), (float("inf"), "net.fc.bias")])
def test_a_net_that_gives_no_numbers_is_not_exported(desk, command, reseal, value, layer):
    run = desk / "runs/tiny"
    state = safetensors.torch.load((run / "nets/pruned/model.safetensors").read_bytes())
    layer = layer if layer in state else next(name for name in state if name.endswith(layer.rpartition(".")[2]))
    state[layer] = torch.full_like(state[layer], value)
    info = store.load_info(run / "nets/pruned").model_copy(update={"weights_sha256": ""})
    content = safetensors.torch.save(state, metadata={"net_json": store._digest(info)})
    info = info.model_copy(update={"weights_sha256": hashlib.sha256(content).hexdigest()})
    reseal(run, "nets/pruned", {"net.json": info.model_dump_json().encode(), "model.safetensors": content})
    done = command(desk, *EXPORT)
    assert done.code == 2, done.err
    assert "scores that are not finite (NaN or infinity)" in done.err
    assert layer in done.err
    assert "Traceback" not in done.err
    assert not (run / "onnx/pruned/fp32/manifest.json").exists()
