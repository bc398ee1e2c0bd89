"""docs/ against the code and against a real run: what a page says exists does, and what exists is on its page."""

import ast
import json
import re
import runpy
from pathlib import Path
from typing import get_args

import numpy as np
import pytest
from packaging.version import Version

import robustdeploy
from robustdeploy.core.gate import Verdict
from robustdeploy.core.load import load_target
from robustdeploy.core.metrics import METRICS
from robustdeploy.core.report import SCHEMA_VERSION, BudgetLine, Diagnostic, Measurement, Report
from robustdeploy.core.shipped import shipped_names
from robustdeploy.devices import releases
from robustdeploy.engine.manifest import Manifest
from robustdeploy.onboard.types import Threat

ROOT = Path(__file__).parents[1]


def page(name):
    return (ROOT / "docs" / f"{name}.md").read_text()


def sections(text):
    parts = re.split(r"^## (.+)$", text, flags=re.MULTILINE)
    return dict(zip(parts[1::2], parts[2::2], strict=True))


def table(text, head):
    """Rows of the first table whose first column is called ``head``, as lists of cells."""
    lines = text[text.index(f"| {head} |") :].splitlines()
    rows = [[cell.strip() for cell in line.strip("|").split(" | ")] for line in lines if line.startswith("|")]
    found = []
    for row, line in zip(rows, lines, strict=False):
        if not line.startswith("|"):
            break
        found.append(row)
    return found[2:]


def ticked(text):
    return re.findall(r"`([^`]+)`", text)


def diagnostics_in_the_code():
    """Each id that the evaluation or the report can give, with the thresholds that stand in its code as numbers."""
    found = {}
    for path in sorted([*(ROOT / "robustdeploy/evaluate").glob("*.py"), *(ROOT / "robustdeploy/report").glob("*.py")]):
        for function in ast.walk(ast.parse(path.read_text())):
            if not isinstance(function, ast.FunctionDef):
                continue
            names = {
                node.targets[0].id: node.value.value
                for node in ast.walk(function)
                if isinstance(node, ast.Assign)
                and isinstance(node.targets[0], ast.Name)
                and isinstance(node.value, ast.Constant)
            }
            for call in ast.walk(function):
                if isinstance(call, ast.Call) and getattr(call.func, "id", "") == "Diagnostic":
                    given = {k.arg: k.value for k in call.keywords}
                    which = given["id"].value if isinstance(given["id"], ast.Constant) else names[given["id"].id]
                    limits = found.setdefault(which, set())
                    if isinstance(given.get("threshold"), ast.Constant):
                        limits.add(float(given["threshold"].value))
    return found


DIAGNOSTICS = diagnostics_in_the_code()


def test_each_diagnostic_has_a_section_and_each_section_a_diagnostic():
    assert len(DIAGNOSTICS) >= 11
    assert sections(page("diagnostics")).keys() == DIAGNOSTICS.keys()


@pytest.mark.parametrize("name", sorted(DIAGNOSTICS))
def test_a_diagnostics_section_gives_its_threshold_and_what_to_do(name):
    text = sections(page("diagnostics"))[name]
    told = {float(word) for word in ticked(text) if re.fullmatch(r"[\d.]+", word)}
    assert told == DIAGNOSTICS[name]
    assert "What to do:" in text


@pytest.mark.slow
def test_what_a_run_diagnoses_is_on_the_page(chain):
    report = json.loads((chain / "runs/tiny/report.json").read_text())
    assert {d["id"] for d in report["diagnostics"]} <= DIAGNOSTICS.keys()


def tree_on_the_page():
    """Paths of the picture of a run folder, as on the page."""
    picture = page("run-folder").partition("```\n")[2].partition("```")[0]
    paths, folders = [], []
    for line in picture.splitlines()[2:]:
        name = line.split()[0]
        depth = (len(line) - len(line.lstrip())) // 2 - 1
        if depth > len(folders):  # a second line of a description
            continue
        folders = [*folders[:depth], name.rstrip("/")]
        paths.append("/".join(folders) + ("/" if name.endswith("/") else ""))
    return paths


@pytest.mark.slow
def test_the_picture_of_the_run_folder_is_a_real_one(chain):
    run = chain / "runs/tiny"
    shown = tree_on_the_page()
    shown = {path.replace("TARGET", "quick").replace("NET", "pruned") for path in shown}
    missing = [path for path in sorted(shown) if not (run / path).exists()]
    assert missing == []
    found = {p.relative_to(run).as_posix() for p in run.rglob("*") if p.is_file() and p.name != ".lock"}
    # As the page says below the picture, or as the toolchain has it.
    sometimes = (
        "nets/dense/",
        "attacks/dense/",
        "onnx/dense/",
        "engines/dense/",
        "nets/pruned/best/",
        "nets/pruned/last/",
        "engines/pruned/fp32@quick/engine/",
    )
    found = {path for path in found if "/checkpoints/" not in path and not path.startswith(sometimes)}
    assert found - shown == set()
    assert (chain / "runs/latest").resolve() == run.resolve()


@pytest.mark.slow
def test_the_arrays_of_a_real_evaluation_are_those_of_the_page(chain):
    rows = {ticked(row[0])[0]: row[1] for row in table(page("run-folder"), "array")}
    seen = set()
    with np.load(chain / "runs/tiny/boards/pruned/fp32@quick/outcomes.npz", allow_pickle=False) as outcomes:
        for name, array in outcomes.items():
            generic = re.sub(r"(^|/)(fgsm|pgd-5|square-30)/", r"\1ATTACK/", name)
            kind, _, shape = rows[generic].partition(", ")
            assert (str(array.dtype), array.ndim) == (kind, 1 + shape.count("×")), name
            seen.add(generic)
    assert seen == rows.keys()


@pytest.mark.slow
def test_robust_accuracy_follows_from_the_outcomes_as_the_page_says(chain):
    report = json.loads((chain / "runs/tiny/report.json").read_text())
    rows = [
        r for r in report["measurements"] if (r["metric"], r["subject"]) == ("robust_accuracy", "pruned/fp32@quick")
    ]
    with np.load(chain / "runs/tiny/boards/pruned/fp32@quick/outcomes.npz") as held:
        clean = held["predictions"] == held["labels"]
        bits = {r["attack"]: clean & (held[f"{r['attack']}/predictions"] == held["labels"]) for r in rows[:-1]}
    bits["worst"] = np.logical_and.reduce(list(bits.values()))
    assert {r["attack"]: r["value"] for r in rows} == pytest.approx({k: v.mean() for k, v in bits.items()})


def test_the_fields_of_the_report_are_on_the_page():
    text = page("run-folder")
    rows = {ticked(row[0])[0]: row[1] for row in table(text.partition("## report.json")[2], "field")}
    assert list(rows) == list(Report.model_fields)
    assert rows["schema_version"] == str(SCHEMA_VERSION)
    assert set(ticked(rows["budget"])) == set(BudgetLine.model_fields)
    assert set(ticked(rows["diagnostics"])) == set(Diagnostic.model_fields)
    assert set(ticked(rows["verdict"])) <= set(Verdict.model_fields)
    row = text.partition("A row has ")[2].partition(" Metrics:")[0]
    assert set(Measurement.model_fields) == set(ticked(row))
    manifest = text.partition("## manifest.json")[2].partition("## ")[0].partition("It holds ")[2].partition(". ")[0]
    assert set(ticked(manifest)) == set(Manifest.model_fields)


@pytest.mark.slow
def test_the_log_of_a_real_training_is_on_the_page(chain):
    """All of its fields, but those that a task may add and that belong to a family, as `probe_…`."""
    rows = table(page("run-folder").partition("## metrics.jsonl")[2], "field")
    told = {name for row in rows for name in ticked(row[0])}
    families = tuple(name.removesuffix("…") for name in told if name.endswith("…"))
    records = [json.loads(line) for line in (chain / "runs/tiny/nets/pruned/metrics.jsonl").read_text().splitlines()]
    logged = {name for record in records for name in record}
    assert {"mask_flips", "ops", "train_gradient_norm", "train_mask_gradient_norm"} <= logged
    assert {name for name in logged if not name.startswith(families)} <= told


def test_the_metrics_of_the_page_are_those_of_the_list():
    units = {}
    for names, unit, *_ in table(page("run-folder"), "metric"):
        first, *more = ticked(names)
        stem = first.rpartition(".p50")[0]
        units |= {first: unit} | {f"{stem}{name}": unit for name in more}
    assert units == {metric.name: metric.unit for metric in METRICS.values()}


@pytest.mark.slow
def test_the_kinds_of_a_real_report_are_on_the_page(chain):
    report = json.loads((chain / "runs/tiny/report.json").read_text())
    kinds = {r["kind"] for r in report["measurements"] if r["kind"]}
    # Of a net in another precision, and of attacks that the small run has not.
    kinds |= {"twin", "substitute", "straight-through", "divergence"}
    assert kinds == set(ticked(page("run-folder").partition("`kind` says")[2].partition("\n\n")[0]))
    assert kinds - {"worst"} == {ticked(row[0])[0] for row in table(page("threats"), "kind")}
    assert kinds <= set(get_args(get_args(Measurement.model_fields["kind"].annotation)[0]))


def test_the_grey_levels_of_the_page_are_right():
    told = re.search(r"\((\d+) at 8/255, (\d+) at 0\.1\)", page("threats"))
    assert [int(n) for n in told.groups()] == [Threat(eps=8 / 255).levels, Threat(eps=0.1).levels]


def test_the_shipped_targets_are_on_the_page_with_their_status():
    rows = {ticked(row[0])[0]: row[1:] for row in table(page("targets"), "target")}
    assert set(rows) == set(shipped_names("targets"))
    links = {"local": "local process", "ssh": "SSH", "emulated": "SSH on loopback"}
    for name, (link, backend, status) in rows.items():
        target = load_target(name)
        assert link == links[target.link.name]
        assert backend.lower().replace(" ", "").startswith(target.backend.name)
        assert status.startswith(target.status)
        assert ("not run on hardware" in status) == (target.status == "contract-tested")


def test_the_tables_of_releases_are_those_that_decide():
    rows = [(ticked(name)[0], first, int(opset)) for name, first, opset in table(page("targets"), "toolchain")]
    assert rows == [(name, *row) for name, listed in releases.OPSETS.items() for row in listed]
    rows = [tuple(row) for row in table(page("targets"), "JetPack")]
    assert rows == [(each.name, each.l4t, each.tensorrt, each.cuda, each.python) for each in releases.JETPACKS]


def test_the_example_of_a_target_is_one(tmp_path):
    rack, shed = re.findall(r"```yaml\n(.*?)```", page("targets"), re.DOTALL)
    (tmp_path / "rack.yaml").write_text(rack)
    assert [link.options["host"] for link in load_target(tmp_path / "rack.yaml").links] == ["jetson-a", "jetson-b"]
    (tmp_path / "shed.yaml").write_text(shed)
    target = load_target(tmp_path / "shed.yaml")
    assert (target.name, target.link.name, target.arch) == ("shed", "ssh", "aarch64")
    assert target.link.options["host"] == "shed"


def test_the_changelog_keeps_the_usual_form():
    """Unreleased changes first, then releases with their dates, newest first; kinds of change have six names."""
    text = (ROOT / "CHANGELOG.md").read_text()
    first, *releases = re.findall(r"^## (.*)$", text, re.MULTILINE)
    assert first == "[Unreleased]"
    assert [line for line in releases if not re.fullmatch(r"\[\d+\.\d+\.\d+\] - \d{4}-\d\d-\d\d", line)] == []
    numbers = [Version(line[1 : line.index("]")]) for line in releases]
    assert numbers == sorted(numbers, reverse=True)
    kinds = set(re.findall(r"^### (.*)$", text, re.MULTILINE))
    assert kinds <= {"Added", "Changed", "Deprecated", "Removed", "Fixed", "Security"}
    here = Version(robustdeploy.__version__)
    assert here.is_devrelease or here.local or here in numbers


def test_the_code_that_saves_a_net_from_elsewhere_works(tmp_path, monkeypatch):
    import torch

    from robustdeploy import load_net
    from robustdeploy.core.given import is_stored_net

    (tmp_path / "my_nets.py").write_text(
        "from torch import nn\n\n\n"
        "def small(num_classes):\n"
        "    return nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(144, num_classes))\n"
    )
    (code,) = re.findall(r"```python\n(.*?)```", page("commands"), re.DOTALL)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "save.py").write_text(code)
    runpy.run_path("save.py")
    assert is_stored_net(tmp_path / "my_net")
    net = load_net(tmp_path / "my_net", trust=["my_nets:small"])
    with torch.no_grad():
        assert net(torch.rand(2, 1, 8, 8)).shape == (2, 10)


def test_the_states_of_a_run_and_the_exit_codes_are_on_the_page_of_commands():
    from robustdeploy.cli.streams import PIPE_CLOSED
    from robustdeploy.engine.overview import STATES

    states = [state for row in table(page("commands"), "state") for state in ticked(row[0])]
    assert states == list(STATES)
    codes = {int(code) for row in table(page("commands"), "code") for code in re.findall(r"\d+", row[0])}
    assert codes == {0, 1, 2, 3, 4, 130, 143, PIPE_CLOSED}
