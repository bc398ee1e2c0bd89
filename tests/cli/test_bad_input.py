"""Everything a user can get wrong: the right exit code, one clear sentence, nothing half-written."""

import platform
import sys

import lies
import numpy as np
import pytest
from lies import LIES
from PIL import Image


@pytest.mark.parametrize("ops", ["0", "1.5", "nan", "-1", "abc", "inf", "", "0/0"])
def test_an_impossible_ops_target(tmp_path, refused, ops):
    said = refused(tmp_path, "prune", f"--ops-target={ops}")
    assert "budget.ops" in said
    assert (ops or "is empty") in said


@pytest.mark.parametrize(("name", "amount"), [("params", ""), ("params", "12KiB"), ("memory", "0"), ("memory", "110%")])
def test_an_impossible_target_of_another_cost(tmp_path, refused, name, amount):
    said = refused(tmp_path, "run", f"--{name}-target={amount}")
    assert f"budget.{name}" in said
    assert (amount or "is empty") in said


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("threat.eps=8/0", ["8/0", "eps"]),
        ("threat.eps=0", ["eps"]),
        ("threat.eps=8", ["eps"]),
        ("trian.epochs=3", ["trian", "train"]),
        ("train.epoch=3", ["epoch", "epochs"]),
        ("train.epochs=0", ["epochs"]),
        ("train.task=fastta", ["fastta", "fastat"]),
        ("net=resnt8", ["resnt8", "resnet8"]),
        ("data.name=digit", ["digit", "digits"]),
        ("evaluate.attacks=[sqare]", ["sqare", "square"]),
        ("evaluate.attacks.1.stpes=3", ["stpes", "steps"]),
        ("evaluate.attacks.1.steps=0", ["steps"]),
        ("net=nowhere.at_all:factory", ["nowhere"]),
        ("data.path=missing/folder", ["missing/folder"]),
        ("data.name=cifar10", ["path"]),
        ("evaluate.limit=0", ["limit"]),
        ("evaluate.attacks=[fgsm, fgsm]", ["fgsm", "twice"]),
        ("name=" + "x" * 300, ["cannot name a run", "100"]),
        ("seed=9223372036854775808", ["seed", "9223372036854775808"]),
        ("nonsense", ["budget.ops=0.3"]),
    ],
)
def test_a_wrong_override(tmp_path, refused, override, words):
    said = refused(tmp_path, "prune", "--set", override)
    for word in words:
        assert word in said


def test_several_mistakes_are_told_at_once(tmp_path, refused):
    (tmp_path / "bad.yaml").write_text(
        "name: bad\ntrian: {epochs: 3}\nthreat: {eps: 8/0}\nevaluate:\n  attacks: [fgsm, sqare]\nbudget: {ops: 1.5}\n"
    )
    for words in (["prune", "bad.yaml"], ["run", "bad.yaml"], ["validate", "bad.yaml"]):
        done = refused(tmp_path, *words) if words[0] != "validate" else None
        if done:
            lines = done.splitlines()
            assert len(lines) == 4
            assert [f"bad.yaml:{n}" in line for n, line in zip((2, 3, 5, 6), lines, strict=True)] == [True] * 4


@pytest.mark.parametrize(
    "words",
    [
        ["prune", "no-such-recipe"],
        ["prune", "no-such.yaml"],
        ["prune", "--target", "jetson-orni"],
        ["run", "--target", "nowhere.yaml"],
        ["export"],
        ["export", "nowhere"],
        ["evaluate"],
        ["report"],
        ["gate"],
        ["verify"],
        ["compare", "a", "b"],
        ["gate", "nowhere/report.json"],
        ["ls", "recipies"],
        ["schema", "recipie"],
        ["validate", "missing.yaml"],
        ["doctor", "--target", "jetson-orni"],
        ["prune", "--name", "../elsewhere"],
        ["prune", "--name", "latest"],
    ],
    ids=" ".join,
)
def test_something_that_is_not_there(tmp_path, command, words):
    done = command(tmp_path, *words)
    assert done.code == 2
    assert done.out == ""
    assert "error: " in done.err
    assert "Traceback" not in done.err
    assert list(tmp_path.rglob("*")) == []
    as_json = command(tmp_path, *words, "--json")
    assert as_json.code == 2
    assert as_json.document


def test_another_data_set_under_the_name_of_a_finished_run(desk, refused):
    rng = np.random.default_rng(0)
    for side in ("train", "test"):
        for name in ("cat", "dog"):
            (desk / "pets" / side / name).mkdir(parents=True)
            for number in range(4):
                pixels = rng.integers(0, 256, (8, 8, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(desk / "pets" / side / name / f"{number}.png")
    recipe = desk / "runs" / "tiny" / "recipe.yaml"
    before = recipe.read_bytes()
    (desk / "pets.yaml").write_text("name: tiny\ndata: {name: folder, path: pets}\nnet: resnet8\n")
    refused(desk, "prune", "pets.yaml", "--name", "tiny")
    assert recipe.read_bytes() == before


@pytest.mark.slow
def test_a_net_of_an_image_folder_meets_a_folder_of_other_classes(tmp_path, command, refused, listed):
    rng = np.random.default_rng(0)
    for folder, names in (("pets", ("cat", "dog")), ("cars", ("audi", "bmw", "fiat"))):
        for side, count in (("train", 12), ("test", 4)):
            for name in names:
                (tmp_path / folder / side / name).mkdir(parents=True)
                for number in range(count):
                    pixels = rng.integers(0, 256, (8, 8, 3), dtype=np.uint8)
                    Image.fromarray(pixels).save(tmp_path / folder / side / name / f"{number}.png")
    (tmp_path / "pets.yaml").write_text(
        "name: pets\ndata: {name: folder, path: pets, validation: 0.25}\nnet: resnet8\nbaseline: false\n"
        "train: {task: standard, epochs: 1, batch_size: 8, device: cpu}\n"
    )
    assert command(tmp_path, "prune", "pets.yaml").code == 0
    assert command(tmp_path, "export").code == 0
    said = refused(tmp_path, "evaluate", "--data", "cars")
    assert "cat, dog" in said
    assert "audi, bmw, fiat" in said
    assert listed["cars/train/audi"] == listed["cars/test/fiat"] == 2  # by two commands, one of them with --json


DAMAGED = [
    "nets/pruned/model.safetensors",
    "nets/pruned/net.json",
    "nets/pruned/masks.safetensors",
    "nets/pruned/metrics.jsonl",
    "nets/pruned/held_out.npz",
    "nets/pruned/prints.npz",
    "nets/pruned/manifest.json",
    "nets/dense/model.safetensors",
    "nets/dense/net.json",
    "nets/dense/manifest.json",
    "attacks/pruned/fp32/attacks.npz",
    "attacks/pruned/fp32/manifest.json",
    "attacks/dense/fp32/attacks.npz",
    "onnx/pruned/fp32/model.onnx",
    "onnx/pruned/fp32/manifest.json",
    "onnx/pruned/fp32/golden.npz",
    "engines/pruned/fp32@quick/engine/model.onnx",
    "engines/pruned/fp32@quick/manifest.json",
    "boards/pruned/fp32@quick/outcomes.npz",
    "boards/pruned/fp32@quick/rows.json",
    "boards/pruned/fp32@quick/facts.json",
    "boards/pruned/fp32@quick/timings.json",
    "boards/pruned/fp32@quick/manifest.json",
    "report.json",
    "recipe.yaml",
    "ledger.jsonl",
]
READS = {
    "nets/pruned": ["prune", "export", "evaluate", "report", "run"],
    "nets/dense": ["prune", "evaluate", "report", "run"],
    "attacks/pruned": ["evaluate", "report", "run"],
    "attacks/dense": ["evaluate", "report", "run"],
    "onnx/pruned": ["export", "evaluate", "report", "run"],
    "engines/pruned": ["evaluate", "report", "run"],
    "boards/pruned": ["evaluate", "report", "run"],
    "report.json": ["gate", "compare"],
    "recipe.yaml": ["export", "evaluate", "report"],
    "ledger.jsonl": ["export", "evaluate", "report", "run"],
}


def words_of(name):
    known = {
        "prune": ["prune", "tiny.yaml", "--name", "tiny"],
        "run": ["run", "tiny.yaml", "--name", "tiny", "--target", "quick.yaml"],
        "export": ["export", "--target", "quick.yaml"],
        "evaluate": ["evaluate", "--target", "quick.yaml"],
        "report": ["report"],
        "gate": ["gate"],
        "compare": ["compare", "tiny", "tiny"],
    }
    return known[name]


def truncate(path):
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])


def edit(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(bytes(content))


@pytest.mark.parametrize("damage", [truncate, edit], ids=lambda f: f.__name__)
@pytest.mark.parametrize("file", DAMAGED)
@pytest.mark.alike(16)
def test_a_damaged_file_is_refused_by_everything_that_reads_it(desk, refused, file, damage):
    damage(desk / "runs" / "tiny" / file)
    # A ledger that was cut is a shorter sound one: those notice whose seals it has lost.
    cut = (file, damage) == ("ledger.jsonl", truncate)
    for name in ["report"] if cut else READS["/".join(file.split("/")[:2])]:
        said = refused(desk, *words_of(name))
        assert file.rpartition("/")[2] in said, (name, said)


@pytest.mark.parametrize("verb", ["gate", "report", "compare"])
def test_a_run_without_its_recipe_is_told_to_lack_it(desk, refused, verb):
    (desk / "runs/tiny/recipe.yaml").unlink()
    said = refused(desk, verb, *["tiny"] * (2 if verb == "compare" else 1))
    assert "it holds ledger.jsonl, but no recipe.yaml" in said


@pytest.mark.parametrize("file", DAMAGED)
@pytest.mark.alike(10)
def test_verify_names_the_file_with_a_flipped_byte(desk, command, file):
    assert command(desk, "verify").code == 0
    path = desk / "runs" / "tiny" / file
    rng = np.random.default_rng(len(file))
    content = bytearray(path.read_bytes())
    content[int(rng.integers(len(content)))] ^= 1 << int(rng.integers(8))
    path.write_bytes(bytes(content))
    done = command(desk, "verify")
    assert done.code == 2
    assert file.rpartition("/")[2] in done.err
    assert "Traceback" not in done.err
    as_json = command(desk, "verify", "--json")
    assert as_json.code == 2
    assert any(file.rpartition("/")[2] in problem for problem in as_json.document["problems"])


@pytest.mark.parametrize("content", [b"this is not a net", b"", b"\x08\x09" * 50], ids=["text", "empty", "bytes"])
def test_an_onnx_file_that_is_not_one(desk, refused, reseal, content):
    run = desk / "runs" / "tiny"
    reseal(run, "onnx/pruned/fp32", {"model.onnx": content})
    said = refused(desk, "evaluate", "--target", "quick.yaml", writes=True)
    assert "model.onnx" in said
    assert len(said.splitlines()) == 1


def test_a_toolchain_that_is_not_installed_is_named_with_its_fix(desk, refused, command):
    (desk / "trt.yaml").write_text("name: trt\nbackend: {name: tensorrt, version: '>=10.3,<12'}\nlink: local\n")
    assert command(desk, "export", "--target", "trt.yaml").code == 0
    said = refused(desk, "evaluate", "--target", "trt.yaml", code=4, writes=True)
    assert "tensorrt" in said
    assert "install" in said
    assert len(said.splitlines()) == 1


def test_a_toolchain_of_an_unsupported_version(desk, refused, command):
    (desk / "old.yaml").write_text("name: old\nbackend: {name: onnxruntime, version: '<1.0'}\nlink: local\n")
    assert command(desk, "export", "--target", "old.yaml").code == 0
    said = refused(desk, "evaluate", "--target", "old.yaml", code=4, writes=True)
    assert "<1.0" in said


def test_a_board_that_cannot_be_reached(desk, refused, command):
    (desk / "far.yaml").write_text("name: far\nlink: {name: ssh, host: nowhere.invalid}\n")
    assert command(desk, "export", "--target", "far.yaml").code == 0
    said = refused(desk, "evaluate", "--target", "far.yaml", code=4, writes=True)
    assert "nowhere.invalid" in said


def test_a_board_of_another_architecture_is_refused_before_anything_is_built(desk, refused, command):
    other = "x86_64" if platform.machine() == "aarch64" else "aarch64"
    (desk / "arm.yaml").write_text(f"name: arm\narch: {other}\nlink: local\n")
    assert command(desk, "export", "--target", "arm.yaml").code == 0
    said = refused(desk, "evaluate", "--target", "arm.yaml", code=4, writes=True)
    assert other in said
    assert platform.machine() in said
    assert not list((desk / "runs/tiny/engines").glob("*/*@arm/engine/*"))


@pytest.mark.parametrize("name", ["score: one class fewer", "run: negative", "run: a hundredth"])
def test_a_board_that_lies_is_no_board(desk, refused, command, name):
    lie, python = LIES[name], desk / "python"
    python.write_text(f'#!/bin/sh\nexec "{sys.executable}" -E "{lies.__file__}" "{name}" "$@"\n')
    python.chmod(0o755)
    quick = (desk / "quick.yaml").read_text().replace("name: quick", "name: liar")
    (desk / "liar.yaml").write_text(f"{quick}link: {{name: local, python: {python}}}\n")
    assert command(desk, "export", "--target", "liar.yaml").code == 0
    said = refused(desk, "evaluate", "--target", "liar.yaml", code=4, writes=True)
    # A run of a fresh process is a timing, so it is the samples that are wrong.
    field = "samples_ns" if lie.op == "run" else lie.field
    assert f"the board's answer to '{lie.op}' cannot be right: '{field}'" in said
    assert len(said.splitlines()) == 1
    for verb in ("report", "gate"):
        assert command(desk, verb, "--target", "liar.yaml").code == 2


def test_evaluate_does_not_change_what_was_trained(desk, refused):
    said = refused(desk, "evaluate", "--target", "quick.yaml", "--set", "train.epochs=9")
    assert "train.epochs" in said


def test_a_recipe_whose_evaluation_was_edited_by_hand_is_noticed(desk, refused):
    path = desk / "runs" / "tiny" / "recipe.yaml"
    path.write_text(path.read_text().replace("eps: 0.1", "eps: 0.01"))
    for name in ("export", "evaluate", "report"):
        assert "recipe.yaml" in refused(desk, *words_of(name))


@pytest.mark.parametrize(
    "command_line", ["export {}", "doctor --target {}", "compare {} {}", "verify {}", "validate {}"]
)
def test_a_path_that_is_too_long_for_any_file(tmp_path, refused, command_line):
    said = refused(tmp_path, *command_line.format("x" * 300, "x" * 300).split())
    assert "file name too long" in said
