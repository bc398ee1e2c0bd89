"""Precisions through the whole chain: what stands in the report, and where a fault is found."""

import json
import re
import time

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from robustdeploy.evaluate.bisect import Step, changes, least_drop
from robustdeploy.evaluate.host import load_host_net
from robustdeploy.export import exporting, parity
from robustdeploy.export.precision import fp16, int8
from robustdeploy.onboard.criterion import CLASSIFICATION

pytestmark = pytest.mark.slow
ATTACKS = ("--attacks", "fgsm", "--limit", "300")


def written(folder, precisions="[fp32, int8, fp16]", name="low"):
    (folder / f"{name}.yaml").write_text(
        f"extends: host-cpu\nname: {name}\nprecisions: {precisions}\n"
        "latency: {warmup_s: 0.01, min_s: 0.05, max_s: 1, min_samples: 100}\n"
    )
    return f"{name}.yaml"


def measured(command, folder, target, *precisions):
    """Export to a target and measure there under settings of its own, which the run's label marks."""
    words = [word for each in precisions for word in ("--precision", each)]
    done = command(folder, "export", "runs/tiny", "--target", target, *words, "--force", "--quiet")
    assert done.code == 0, done.err
    done = command(folder, "evaluate", "runs/tiny", "--target", target, *words, *ATTACKS, "--json")
    assert done.code == 0, done.err
    return done.document


def bisected(command, folder, document, precision):
    name = document["folder"].partition("@")[2]
    done = command(folder, "bisect", "runs/tiny", "--target", name, "--precision", precision, "--json")
    assert done.code == 0, done.err
    return done.document


def blamed(document):
    """The steps that lose accuracy, without what pruning cost."""
    return [change["after"] for change in document["drops"] if change["before"] != "dense net in torch"]


def test_a_run_in_three_precisions_tells_them_side_by_side(desk, command):
    words = [word for each in ("fp32", "int8", "fp16") for word in ("--precision", each)]
    done = command(desk, "run", "tiny.yaml", "--name", "tiny", "--target", written(desk), *words, "--json")
    assert done.code == 0, done.err
    report, run = done.document, desk / "runs/tiny"
    rows = {(row["subject"], row["metric"], row["attack"]): row for row in report["measurements"]}
    for precision in ("fp32", "int8", "fp16"):
        board = rows[f"pruned/{precision}@low", "robust_accuracy", "pgd-5"]
        twin = rows[f"pruned/{precision}@torch", "robust_accuracy", "pgd-5"]
        assert board["kind"] == twin["kind"] == ("transfer" if precision == "fp32" else "twin")
        assert abs(board["value"] - twin["value"]) < 0.1
        assert f"pruned/{precision}@low" in {each["subject"] for each in report["subjects"]}
    checks = {(check["subject"], check["id"]): check for check in report["diagnostics"]}
    assert checks["pruned/int8@low", "twin-fidelity"]["level"] == "ok"
    assert checks["pruned/int8@low", "precision-agreement"]["level"] == "ok"
    assert ("pruned/fp32@low", "twin-fidelity") not in checks
    facts = json.loads((run / "onnx/pruned/int8/manifest.json").read_text())["facts"]["lowered"]
    assert facts["calibration"]["n"] == 256
    assert facts["calibration"]["images"] == "mixed"
    assert facts["agreement_clean"] > 0.9
    # What was found on the net in float32 is tried too, and of each two images the worse one stays.
    own, before = (np.load(run / f"attacks/pruned/{each}/attacks.npz") for each in ("int8", "fp32"))
    labels = np.load(run / "boards/pruned/int8@low/outcomes.npz")["labels"]
    host = load_host_net(run / "nets/pruned", "cpu", twin=run / "onnx/pruned/int8/model.onnx")
    for attack in ("fgsm", "pgd-5"):
        margins = [CLASSIFICATION.margin(host.score(each[f"{attack}/images"]), labels) for each in (own, before)]
        assert (margins[0] <= margins[1]).all()
    # What is done is not done again, and another way to calibrate makes this precision anew.
    again = command(desk, "plan", "tiny.yaml", "--name", "tiny", "--target", "low.yaml", *words, "--json").document
    assert {step["action"] for step in again["steps"]} == {"skip"}
    changed = ["--set", "precisions=[fp32, {name: int8, method: percentile}, fp16]"]
    again = command(desk, "plan", "tiny.yaml", "--name", "tiny", "--target", "low.yaml", *changed, "--json").document
    redone = [step["place"] for step in again["steps"] if step["action"] != "skip"]
    assert "onnx/pruned/int8" in redone
    assert not [place for place in redone if "int8" not in place]
    assert command(desk, "verify", "runs/tiny").code == 0


def test_a_precision_that_a_target_does_not_have_is_refused_before_anything_is_done(desk, command):
    words = ("--name", "new", "--target", written(desk, "[fp32]"), "--precision", "int8")
    done = command(desk, "run", "tiny.yaml", *words)
    assert done.code == 2
    assert "target low has no precision 'int8' (it has: fp32)" in done.err
    assert not (desk / "runs/new").exists()
    done = command(desk, "evaluate", "runs/tiny", "--target", written(desk), "--precision", "int8")
    assert done.code == 2
    assert "robustdeploy export runs/tiny --target low --precision int8" in done.err


@pytest.fixture
def wrong_scale(monkeypatch):
    """Calibration that measured an activation's range as a small part of what it is."""
    lower = int8.Int8.lower

    def wrong(self, onnx_file, lowered, images):
        lower(self, onnx_file, lowered, images)
        model = onnx.load(lowered)
        scales = {node.input[1] for node in model.graph.node if node.op_type == "QuantizeLinear"}
        used = sorted(scales)[len(scales) // 2]
        tensor = next(each for each in model.graph.initializer if each.name == used)
        tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor) / 12, used))
        onnx.save(model, lowered)

    monkeypatch.setattr(int8.Int8, "lower", wrong)


@pytest.fixture
def noisy_halves(monkeypatch):
    """A conversion to 16 bits that loses most of the weights."""
    lower = fp16.Fp16.lower

    def wrong(self, onnx_file, lowered, images):
        lower(self, onnx_file, lowered, images)
        _disturb(lowered, np.float16)

    monkeypatch.setattr(fp16.Fp16, "lower", wrong)


@pytest.fixture
def wrong_export(monkeypatch):
    """An exporter that writes other weights, and a parity that does not look."""
    export = exporting.export_onnx

    def wrong(net, image_shape, path, *rest):
        export(net, image_shape, path, *rest)
        _disturb(path, np.float32)

    monkeypatch.setattr(exporting, "export_onnx", wrong)
    monkeypatch.setattr(parity, "DISAGREEMENT_LIMIT", 1.0)


def _disturb(path, kind):
    model = onnx.load(path)
    for tensor in model.graph.initializer:
        values = numpy_helper.to_array(tensor)
        if values.dtype == kind and values.ndim == 4:
            noise = np.random.default_rng(0).normal(0, values.std(), values.shape)
            tensor.CopyFrom(numpy_helper.from_array((values + noise).astype(kind), tensor.name))
    onnx.save(model, path)


@pytest.mark.exhaustive
@pytest.mark.parametrize(
    ("fault", "precision", "step"),
    [
        ("wrong_scale", "int8", "ONNX file in int8"),
        pytest.param("noisy_halves", "fp16", "ONNX file in fp16", marks=pytest.mark.exhaustive),
        ("wrong_export", "fp32", "ONNX file in fp32"),
    ],
)
def test_a_fault_in_a_file_is_named_by_its_step(fault, precision, step, desk, command, request):
    request.getfixturevalue(fault)
    document = measured(command, desk, written(desk), *dict.fromkeys(("fp32", precision)))
    found = bisected(command, desk, document, precision)
    assert blamed(found)[0] == step
    if precision != "fp32":
        (check,) = [each for each in document["beside"][0]["diagnostics"] if each["id"] == "precision-agreement"]
        assert check["level"] == "warn"


def test_a_fault_of_the_engine_is_named_by_its_step_and_a_sound_one_by_none(desk, command):
    sound = bisected(command, desk, measured(command, desk, written(desk), "fp32", "int8"), "int8")
    assert [step["name"] for step in sound["steps"]] == [
        "dense net in torch",
        "pruned net in torch",
        "ONNX file in fp32",
        "ONNX file in int8",
        sound["steps"][-1]["name"],
    ]
    assert blamed(sound) == []
    wrong = bisected(command, desk, measured(command, desk, "null", "fp32"), "fp32")
    assert blamed(wrong)[0].startswith("engine on null@")


@pytest.mark.exhaustive
def test_what_pruning_costs_is_named_too(desk, command):
    found = bisected(command, desk, measured(command, desk, written(desk), "fp32"), "fp32")
    assert found["first"]["before"] == "dense net in torch"
    assert found["first"]["after"] == "pruned net in torch"
    told = command(desk, "bisect", "runs/tiny", "--target", "quick")
    assert told.code == 0
    assert "McNemar" in told.out or "cannot be seen" in told.out
    assert re.search(r"the masked net is the pruned one: scores within \d\.\de-\d+ in float64 on \d+ clean", told.out)


@pytest.mark.exhaustive
def test_fine_tuning_trains_the_weights_as_if_rounded_and_the_files_say_so(desk, command):
    target = written(desk, "[{name: int8, epochs: 2, lr: 0.02}]", "tuned")
    document = measured(command, desk, target, "int8")
    place = desk / "runs/tiny/onnx/pruned/int8.epochs2-lr0.02"
    facts = json.loads((place / "manifest.json").read_text())["facts"]["lowered"]
    assert facts["tuned_epochs"] == 2
    # What could be resumed from is gone, and the training's own log of this stage with it.
    assert {path.name for path in place.iterdir()} == {"model.onnx", "golden.npz", "manifest.json"}
    (check,) = [each for each in document["diagnostics"] if each["id"] == "precision-agreement"]
    assert check["level"] == "ok"
    assert "fine-tuned for 2 epochs" in check["text"]
    before = onnx.load(desk / "runs/tiny/onnx/pruned/fp32/model.onnx").graph.initializer
    floats = {each.name: numpy_helper.to_array(each) for each in before}
    after = {each.name: numpy_helper.to_array(each) for each in onnx.load(place / "model.onnx").graph.initializer}
    moved = []
    for name, weights in floats.items():
        if f"{name}_quantized" in after and weights.ndim == 4:
            scale = after[f"{name}_scale"].reshape(-1, 1, 1, 1)
            moved.append(np.abs(after[f"{name}_quantized"] * scale - weights).max() > 2 * scale.max())
    assert moved
    assert all(moved)
    # The pixels' normalisation is no weight of a product and stays as it was.
    constants = [
        name for name, values in floats.items() if values.ndim == 4 and values.shape[-1] == 1 and name in after
    ]
    assert all(np.array_equal(after[name], floats[name]) for name in constants)


@pytest.mark.exhaustive
def test_fine_tuning_that_was_killed_goes_on(desk, command, spawn):
    target = written(desk, "[{name: int8, epochs: 40}]", "tuned")
    words = ("export", "runs/tiny", "--target", target, "--precision", "int8")
    process, checkpoints = spawn(desk, *words), desk / "runs/tiny/onnx/pruned/int8.epochs40/tuning/checkpoints"
    ends = time.monotonic() + 60
    while not list(checkpoints.glob("step-*.safetensors")) and time.monotonic() < ends and process.poll() is None:
        time.sleep(0.02)
    process.kill()
    process.communicate()
    left = sorted(int(path.stem.split("-")[1]) for path in checkpoints.glob("step-*.safetensors"))
    assert left
    assert not (checkpoints.parents[1] / "manifest.json").exists()
    done = command(desk, *words)
    assert done.code == 0, done.err
    # The first step that is told of lies behind what was saved; begun anew it would be step 1.
    first = int(re.search(r"fine-tuning pruned in int8: (\d+) of", done.err)[1])
    assert first > left[0]


@pytest.mark.exhaustive
def test_each_build_is_measured_and_every_rule_is_asked_of_each(desk, command):
    words = ("--name", "tiny", "--target", written(desk, "[fp32]", "often"), "--builds", "3", "--precision", "fp32")
    done = command(desk, "run", "tiny.yaml", *words, "--json")
    assert done.code == 0, done.err
    report, subjects = done.document, [f"pruned/fp32@often{end}" for end in ("", ".build2", ".build3")]
    assert [each["subject"] for each in report["verdict"]["subjects"]] == subjects
    assert {line["subject"] for line in report["verdict"]["rules"]} == set(subjects)
    (told,) = [each for each in report["diagnostics"] if each["id"] == "builds-vary"]
    assert told["text"].startswith("3 builds of pruned/fp32@often are bit for bit the same: median latency 0.")
    # Gradients were followed once for all of them.
    assert len(list((desk / "runs/tiny/attacks/pruned").iterdir())) == 1
    assert command(desk, "run", "tiny.yaml", *words[:4], "--builds", "0").code == 2


def bits(right, n=200):
    return np.arange(n) < right


def test_a_step_is_blamed_only_where_chance_does_not_explain_the_loss():
    sound, worse = Step("a", bits(180), bits(100)), Step("b", bits(180), bits(80))
    (clean, robust) = changes([sound, worse])
    assert (clean.significant, clean.p) == (False, 1.0)
    assert (robust.significant, robust.lost, robust.gained) == (True, 20, 0)
    # As many are gained as lost, and a rise is no loss.
    other = Step("b", bits(180), np.roll(bits(100), 20))
    assert not any(change.significant for change in changes([sound, other]))
    assert not any(change.significant for change in changes([worse, sound]))


def test_the_smallest_loss_that_could_be_seen_is_just_significant():
    n = 200
    for steps in (2, 3, 5):
        comparisons = 2 * (steps - 1)
        lost = round(least_drop(comparisons, n) * n)

        def seen(lost, steps=steps):
            walk = [Step(str(i), bits(100), bits(100 - (lost if i else 0))) for i in range(steps)]
            return changes(walk)[1].significant

        assert seen(lost)
        assert not seen(lost - 1)
