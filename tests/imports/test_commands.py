"""Files of others through the command line: imported, evaluated, reported, judged, pruned."""

import json

import numpy as np
import pytest
import yaml
from onnx import TensorProto, helper
from perceptrons import perceptron

QUICK = """
    extends: host-cpu
    name: quick
    latency: {warmup_s: 0.01, min_s: 0.05, max_s: 1, min_samples: 100}
"""
SMALL = {
    "name": "small",
    "threat": {"norm": "linf", "eps": 0.1},
    "evaluate": {
        "limit": 60,
        "curve_limit": 30,
        "eps_curve": [1.0, 4.0],
        "attacks": [
            "fgsm",
            {"name": "pgd", "steps": 5, "alpha": 0.05},
            {"name": "square", "queries": 30},
            {"name": "rays", "queries": 60},
        ],
    },
    "gate": [
        {"id": "RD-ACC-01", "metric": "clean_accuracy", "at_least": 0.05},
        {"id": "RD-PGD-01", "metric": "robust_accuracy", "attack": "pgd-5", "at_least": 0.5},
        {"id": "RD-LAT-01", "metric": "latency_ms.p50", "at_most": 1000},
    ],
}


@pytest.fixture
def desk(tmp_path):
    (tmp_path / "small.yaml").write_text(yaml.safe_dump(SMALL))
    (tmp_path / "quick.yaml").write_text(QUICK)
    return tmp_path


def evaluated(command, desk, name, *more):
    """Evaluate a file of others and report on it; return the report and what was said."""
    words = ("evaluate", name, "--recipe", "small.yaml", "--target", "quick.yaml", *more)
    done = command(desk, *words)
    assert done.code == 0, done.err
    told = command(desk, "report", "runs/net", "--target", "quick")
    assert told.code == 0, told.err
    return json.loads((desk / "runs/net/report.json").read_text()), done


def on_board(report):
    """Rows of robust accuracy of what was deployed; the host's replay stands beside."""
    return [r for r in report["measurements"] if r["metric"] == "robust_accuracy" and r["subject"].endswith("@quick")]


def test_a_file_of_bytes_with_a_softmax_is_evaluated_reported_verified_and_judged(command, desk, layers, saved):
    form = {"dims": (1, 8, 8, 1), "element": TensorProto.UINT8, "scale": 255.0, "out": (1, 10)}
    saved(perceptron(layers, end=[("Softmax", {"axis": 1})], **form))
    report, done = evaluated(command, desk, "net.onnx")
    assert "note: guessed layout nhwc" in done.err
    assert report["net"] == "imported"
    assert any("probabilities" in line for line in report["data"]["import"])
    checks = {each["id"]: each for each in report["diagnostics"]}
    assert (checks["raw-scores"]["level"], checks["twin-fidelity"]["level"]) == ("ok", "ok")
    assert "scores are probabilities" in checks["raw-scores"]["text"]
    # An honest net: nothing speaks of hidden gradients.
    for name in ("zero-gradient", "lost-gradient", "faithful-gradient", "loss-rises", "falls-with-eps"):
        assert checks[name]["level"] == "ok", checks[name]
    rows = {
        (row["metric"], row["attack"]): row["value"] for row in report["measurements"] if "@quick" in row["subject"]
    }
    assert rows["robust_accuracy", "pgd-5"] < rows["clean_accuracy", None]
    assert rows["ops", None] == 64 * 32 + 32 * 10
    assert command(desk, "verify", "runs/net").code == 0
    again = command(desk, "import", "net.onnx", "--recipe", "small.yaml", "--target", "quick.yaml")
    assert again.code == 0, again.err
    assert command(desk, "verify", "runs/net").code == 0  # nothing was made anew
    # From the file to the verdict in one command: what was done above stands, and is judged.
    whole = command(desk, "run", "net.onnx", "--recipe", "small.yaml", "--target", "quick.yaml", "--json")
    assert whole.document["net"] == "imported"
    assert {"PASS": 0, "FAIL": 1, "INCONCLUSIVE": 3}[whole.document["verdict"]["outcome"]] == whole.code
    assert "import: " not in whole.err
    measured = {(row["metric"], row["attack"], row["value"]) for row in whole.document["measurements"]}
    assert {(name, attack, value) for (name, attack), value in rows.items()} <= measured


@pytest.mark.parametrize(
    ("name", "more", "words"),
    [
        (
            "net.onnx",
            ["--ops-target", "0.5"],
            "net.onnx is trained, and run deploys it as it is; an ONNX file has no",
        ),
        (
            "net.pt",
            ["--seed", "1", "--ops-target", "0.5"],
            "to prune it: robustdeploy run RECIPE --start net.pt",
        ),
        ("net.onnx", [], "say with --recipe what to hold the net against"),
        ("none.onnx", ["--recipe", "small.yaml"], "none.onnx cannot be imported: it does not exist"),
        ("small.yaml", ["--recipe", "small.yaml"], "of a training the recipe is the first word"),
    ],
)
def test_run_says_what_makes_no_sense_for_a_net_that_is_trained(command, desk, name, more, words):
    for given in ("net.onnx", "net.pt"):
        (desk / given).write_bytes(b"never read")
    done = command(desk, "run", name, "--target", "quick.yaml", *more)
    assert done.code == 2
    assert words in done.err
    assert not (desk / "runs").exists()


def test_a_net_that_answers_labels_alone_is_attacked_by_labels_and_not_called_robust(command, desk, layers, saved):
    ends = [("ArgMax", {"axis": 1, "keepdims": 0})]
    saved(perceptron(layers, end=ends, out=("N",), kind=TensorProto.INT64))
    report, done = evaluated(command, desk, "net.onnx")
    assert "it answers labels alone" in done.err
    rows = [row for row in on_board(report) if row["kind"] != "worst"]
    assert {row["kind"] for row in rows} == {"query"}
    assert {row["attack"] for row in rows} == {"rays-60"}
    lines = {line["rule"]: line for line in report["verdict"]["rules"]}
    assert (lines["RD-ACC-01"]["outcome"], lines["RD-PGD-01"]["outcome"]) == ("PASS", "INCONCLUSIVE")
    assert "labels alone, which have no gradient" in lines["RD-PGD-01"]["text"]
    none = command(
        desk, "evaluate", "net.onnx", "--recipe", "small.yaml", "--target", "quick.yaml", "--attacks", "fgsm,square"
    )
    assert none.code == 2
    assert "add rays with --attacks" in none.err


@pytest.mark.exhaustive
def test_a_graph_without_a_twin_is_asked_alone_and_not_called_robust(command, desk, layers, saved):
    model = perceptron(layers, end=[("Mul", {"const": np.float32(1)})])
    model.graph.node.append(helper.make_node("Hardmax", ["logits"], ["unused"], axis=1))
    model.graph.node.append(helper.make_node("Add", ["y", "unused"], ["z"]))
    model.graph.output[0].name = "z"
    saved(model)
    report, done = evaluated(command, desk, "net.onnx")
    assert "no torch form of the ONNX operator Hardmax" in done.err
    assert {row["kind"] for row in on_board(report)} == {"query", "worst"}
    lines = {line["rule"]: line for line in report["verdict"]["rules"]}
    assert lines["RD-PGD-01"]["outcome"] == "INCONCLUSIVE"
    assert "no torch form of the ONNX operator Hardmax" in lines["RD-PGD-01"]["text"]


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("gone.onnx", "does not exist"),
        ("folder", "it is a folder"),
        ("net.tflite", "a net of another tool"),
        ("notes", "without an ending"),
        ("link.onnx", "a link to what is gone"),
    ],
)
def test_what_cannot_be_imported_is_told_before_anything_is_loaded(command, desk, name, words):
    (desk / "folder").mkdir()
    (desk / "net.tflite").write_bytes(b"x")
    (desk / "notes").write_bytes(b"x")
    (desk / "link.onnx").symlink_to(desk / "nowhere.onnx")
    done = command(desk, "import", name, "--recipe", "small.yaml")
    assert done.code == 2
    assert words in done.err
    assert "import takes an ONNX file" in done.err
    assert not (desk / "runs").exists()


@pytest.mark.parametrize(
    ("more", "words"),
    [
        (["--range", "255"], "write what black and white are"),
        (["--mean", "0.5"], "--mean and --std belong together"),
        (["--layout", "nhcw"], "nchw, nhwc, nhw, flat"),
        (["--mean", "a", "--std", "b"], "write one number per channel"),
        (["--range", "0..1", "--mean", "0", "--std", "1"], "give one of them"),
        (["--labels", "gone.txt"], "gone.txt is missing"),
        ([], "say with --recipe"),
    ],
)
def test_options_that_say_nothing_are_refused(command, desk, layers, saved, more, words):
    saved(perceptron(layers))
    recipe = ["--recipe", "small.yaml"] if more else []
    done = command(desk, "import", "net.onnx", *recipe, *more)
    assert done.code == 2
    assert words in done.err


def test_prune_starts_with_weights_of_others_and_not_with_an_onnx_file(command, desk, layers, saved):
    import torch

    from robustdeploy.core.recipe import Choice
    from robustdeploy.nets.build import build_net

    torch.manual_seed(0)
    net = build_net(Choice(name="resnet8", options={"width": 4}), 10, (1, 8, 8), (0.0,), (1.0,))
    torch.save(net.net.state_dict(), desk / "weights.pt")
    saved(perceptron(layers))
    recipe = {**SMALL, "net": {"name": "resnet8", "width": 4}, "train": {"epochs": 1, "device": "cpu"}, "gate": []}
    (desk / "small.yaml").write_text(yaml.safe_dump({**recipe, "budget": {"ops": 0.8}, "baseline": False}))
    done = command(desk, "prune", "small.yaml", "--start", "net.onnx")
    assert done.code == 2
    assert "give the weights that it was made of" in done.err
    done = command(desk, "prune", "small.yaml", "--start", "weights.pt", "--name", "pruned")
    assert done.code == 0, done.err
    record = json.loads((desk / "runs/pruned/nets/pruned/manifest.json").read_text())["facts"]
    assert record["data"]["start"].startswith("from a trained net")
    assert (desk / "runs/weights/nets/imported/net.json").is_file()
