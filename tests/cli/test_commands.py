"""Every command on a finished run: bare forms, one JSON document, exit codes, help, completion."""

import json
import subprocess
import sys

import jsonschema
import onnx
import pytest

from robustdeploy.core.files import sha256_of_file
from robustdeploy.core.schema import schema_of

COMMANDS = [
    "init",
    "run",
    "plan",
    "prune",
    "import",
    "export",
    "evaluate",
    "report",
    "gate",
    "sweep",
    "table",
    "profile",
    "bisect",
    "collect",
    "compare",
    "index",
    "serve",
    "verify",
    "doctor",
    "board",
    "ls",
    "validate",
    "schema",
]
FINISHED = [
    ["prune", "tiny.yaml", "--name", "tiny"],
    ["run", "tiny.yaml", "--name", "tiny", "--target", "quick.yaml"],
    ["export", "--target", "quick.yaml"],
    ["evaluate", "--target", "quick.yaml"],
    ["report"],
    ["gate"],
    ["compare", "tiny", "latest"],
    ["index"],
    ["verify"],
    ["doctor"],
    ["ls"],
    ["ls", "attacks"],
    ["validate", "tiny.yaml", "quick.yaml"],
    ["schema", "target"],
]


@pytest.mark.parametrize("words", FINISHED, ids=" ".join)
def test_json_is_one_document_and_changes_no_exit_code(desk, command, words):
    plain, as_json = command(desk, *words), command(desk, *words, "--json")
    assert plain.code == as_json.code == 0, plain.err
    assert plain.out.strip()
    assert as_json.document


@pytest.mark.parametrize("words", FINISHED[:6], ids=" ".join)
def test_talk_goes_to_stderr_and_says_what_was_taken(desk, command, words):
    done = command(desk, *words)
    assert "tiny" in done.err
    assert "quick" in done.err or words[0] in ("prune", "report")
    assert command(desk, *words, "--quiet").err == ""


@pytest.mark.parametrize("words", [FINISHED[0], *FINISHED[2:5]], ids=" ".join)
def test_the_next_command_names_the_run(desk, command, words):
    (desk / "runs/latest").unlink()
    run = [] if words[0] == "prune" else ["tiny"]
    done = command(desk, *words, *run)
    assert done.code == 0, done.err
    following = done.out.splitlines()[-1].split("next: robustdeploy ")[1].split()
    assert following[1] == "runs/tiny"
    assert command(desk, *following).code == 0


@pytest.mark.parametrize("words", FINISHED[:4], ids=" ".join)
def test_what_is_done_is_skipped(desk, command, words):
    ledger = (desk / "runs/tiny/ledger.jsonl").read_text()
    done = command(desk, *words)
    assert "skipped" in done.err
    kept = [json.loads(line)["event"] for line in (desk / "runs/tiny/ledger.jsonl").read_text().splitlines()]
    before = [json.loads(line)["event"] for line in ledger.splitlines()]
    assert kept in (before, [*before, "written"])


@pytest.mark.parametrize(
    "words", [["prune", "--nonsense"], ["gate", "a", "b"], ["frobnicate"], ["evaluate", "--limit", "many"]]
)
def test_wrong_usage(tmp_path, command, words):
    done, as_json = command(tmp_path, *words), command(tmp_path, *words, "--json")
    assert done.code == as_json.code == 2
    assert done.out == ""
    assert "Usage: robustdeploy" in done.err
    assert "Traceback" not in done.err
    assert as_json.document["error"]["kind"] == "UsageError"


def test_rules_decide_the_exit_code_of_gate(desk, command):
    def gate(rule):
        (desk / "rules.yaml").write_text(f"rules: [{{id: T-01, {rule}}}]\n")
        plain, as_json = (
            command(desk, "gate", "--rules", "rules.yaml"),
            command(desk, "gate", "--rules=rules.yaml", "--json"),
        )
        assert plain.code == as_json.code
        outcome = as_json.document["outcome"]
        # Few images, a short window and no rule on latency: the verdict is never told without these.
        assert plain.out.startswith(f"{outcome}")
        assert "things were not checked\n" in plain.out
        assert {"warnings", "unchecked"} <= as_json.document.keys()
        return plain.code, outcome

    assert gate("metric: clean_accuracy, at_least: 0.01") == (0, "PASS")
    assert gate("metric: clean_accuracy, at_least: 0.9999, on: value") == (1, "FAIL")
    assert gate("metric: clean_accuracy, at_least: 0.01, n_at_least: 10000") == (3, "INCONCLUSIVE")


def test_a_rule_that_means_nothing_is_refused_by_gate(desk, command):
    (desk / "rules.yaml").write_text("rules: [{id: T-01, metric: clean_acuracy, at_least: 0.5}]\n")
    done = command(desk, "gate", "--rules", "rules.yaml")
    assert (done.code, done.out) == (2, "")
    assert "there is no metric 'clean_acuracy'; did you mean 'clean_accuracy'?" in done.err


def test_gate_judges_a_report_file_alone(desk, tmp_path, command):
    alone = tmp_path / "alone"
    alone.mkdir()
    (desk / "runs/tiny/report.json").rename(alone / "mine.json")
    assert command(alone, "gate", "mine.json").code == 0
    assert command(alone, "compare", "mine.json", "mine.json").code == 0
    missing = command(desk, "gate")
    assert missing.code == 2
    assert "robustdeploy report" in missing.err


def test_a_verdict_that_is_not_pass_is_the_exit_code_of_run(desk, command):
    words = ["run", "tiny.yaml", "--name", "tiny", "--target", "quick.yaml", "--set", "gate=[]"]
    done = command(desk, *words)
    assert done.code == 3
    assert "\nINCONCLUSIVE" in done.out


def test_the_report_meets_its_schema(chain):
    document = json.loads((chain / "runs/tiny/report.json").read_text())
    jsonschema.validate(document, schema_of("report"))
    assert document["budget"]["counts"].keys() == {"masks", "module", "flop_counter", "onnx"}
    assert len(set(document["budget"]["counts"].values())) == 1


@pytest.mark.slow
def test_export_makes_the_files_that_a_board_takes_and_says_which(desk, command):
    done = command(desk, "export", "--target", "jetson-orin")
    assert done.code == 0
    assert "contract-tested" in done.err
    assert "multiple of 8" in done.err
    (opset18, *other), beside = done.out.splitlines()[:-1], desk / "runs/tiny/onnx/pruned/fp32.opset18"
    assert (opset18, other) == ("runs/tiny/onnx/pruned/fp32.opset18/model.onnx is written", [])
    assert {path.name for path in beside.iterdir()} == {"model.onnx", "golden.npz", "manifest.json"}
    model = onnx.load(beside / "model.onnx")
    assert [each.version for each in model.opset_import if each.domain == ""] == [18]
    assert {entry.key: entry.value for entry in model.metadata_props}["robustdeploy.eps"] == "0.1"
    both = command(desk, "export", "--target", "jetson-orin", "--precision", "fp32", "--precision", "fp16", "--json")
    files = [both.document["onnx"], *(each["onnx"] for each in both.document["beside"])]
    assert files == [f"runs/tiny/onnx/pruned/{name}.opset18/model.onnx" for name in ("fp32", "fp16")]
    assert both.document["facts"]["opset"] == 18


def test_evaluate_before_export_names_the_command(desk, command):
    done = command(desk, "evaluate", "--target", "jetson-orin")  # of another opset than what is there
    assert done.code == 2
    assert "robustdeploy export runs/tiny --target jetson-orin` first" in done.err
    done = command(desk, "evaluate", "--target", "host-cpu", "--precision", "int8")
    assert done.code == 2
    assert "robustdeploy export runs/tiny --target host-cpu --precision int8` first" in done.err


@pytest.mark.slow
def test_a_run_of_the_version_that_packed_bundles_still_opens(desk, command, reseal):
    run, place = desk / "runs/tiny", "bundles/pruned/fp32@quick"
    onnx_sha256 = sha256_of_file(run / "onnx/pruned/fp32/model.onnx")
    (run / place).mkdir(parents=True)
    (run / place / "bundle.zip").write_bytes(b"PK")
    about = json.loads((run / "onnx/pruned/fp32/manifest.json").read_text())
    about |= {"stage": "bundle", "inputs": {"onnx/pruned/fp32/model.onnx": onnx_sha256}, "outputs": {}, "facts": {}}
    (run / place / "manifest.json").write_text(json.dumps(about))
    reseal(run, place, {"bundle.zip": b"PK"})
    measured = run / "boards/pruned/fp32@quick/manifest.json"
    measured.write_text(json.dumps({**json.loads(measured.read_text()), "fingerprint": "0" * 64}))
    reseal(run, "boards/pruned/fp32@quick", {}, {f"{place}/bundle.zip": b"PK"})
    for words in (["report"], ["verify"], ["gate"]):
        done = command(desk, *words)
        assert done.code == 0, done.err
    assert "reported" in command(desk, "ls", "runs").out
    done = command(desk, "run", "tiny.yaml", "--name", "tiny", "--target", "quick.yaml")
    assert done.code == 0, done.err
    # Two nets, what is attacked of each, their files and their engines.
    assert done.err.count("and unchanged; skipped") == 8
    (again,) = [line for line in done.err.splitlines() if "boards/pruned/fp32@quick: done again: " in line]
    assert f"another {place}/bundle.zip" in again
    # What that version packed is sealed still, and nothing asks for it when the net is exported anew.
    assert command(desk, "export", "--target", "quick.yaml", "--force").code == 0
    assert "bundles" not in command(desk, "verify").err
    (run / place / "bundle.zip").write_bytes(b"PX")
    assert "bundle.zip" in command(desk, "verify").err


def test_validate_tells_all_problems_of_all_files(tmp_path, command):
    (tmp_path / "a.yaml").write_text("name: a\nnet: resnt8\ntrain: {epochs: 0}\n")
    (tmp_path / "b.yaml").write_text("name: b\nbackend: {name: onnxruntme}\nopset: 3\n")
    (tmp_path / "c.yaml").write_text("rules: [{id: x, metric: clean_accuracy}]\n")
    (tmp_path / "d.yaml").write_text("name: d\nnet: resnet8\n")
    words = ["validate", "a.yaml", "b.yaml", "c.yaml", "d.yaml"]
    done = command(tmp_path, *words)
    assert done.code == 2
    assert done.out == ""
    for part in ("a.yaml:2", "resnet8", "a.yaml:3", "b.yaml:2", "onnxruntime", "b.yaml:3", "c.yaml:1"):
        assert part in done.err
    as_json = command(tmp_path, *words, "--json")
    assert as_json.code == 2
    assert {name: len(found) > 0 for name, found in as_json.document.items()} == {
        "a.yaml": True,
        "b.yaml": True,
        "c.yaml": True,
        "d.yaml": False,
    }


@pytest.mark.parametrize(
    ("rule", "told"),
    [
        ("metric: clean_accuracy, at_least: 0.9, n_at_least: 1000", "needs 1,000 where the evaluation has 544"),
        ("metric: clean_accuracy, at_least: 0.9999", "544 test images, all of them right, put the lower bound at"),
        ("metric: class_clean_accuracy, class_name: 11, at_least: 0.5", "the data set has no class '11'"),
        ("metric: ops, at_most: 10k", "ends above 97% of it, and 10000 is less"),
    ],
)
def test_validate_holds_rules_against_the_data_set(tmp_path, command, rule, told):
    (tmp_path / "a.yaml").write_text(f"name: a\nnet: resnet8\nbudget: {{ops: 0.3}}\ngate: [{{id: RD-A-1, {rule}}}]\n")
    done = command(tmp_path, "validate", "a.yaml")
    assert done.code == 2
    assert done.err.startswith("error: a.yaml: gate: RD-A-1 can never hold: ")
    assert told in done.err


def test_compare_says_what_is_not_alike(desk, command):
    done = command(desk, "compare", "tiny", "tiny", "--json")
    assert done.document["differences"] == []
    assert all(row["before"] == row["after"] for row in done.document["rows"])
    assert [each["attack"] for each in done.document["accuracies"]] == ["clean", "fgsm", "pgd-5", "square-30", "worst"]
    assert all((each["lost"], each["gained"], each["p"]) == (0, 0, 1.0) for each in done.document["accuracies"])
    other = json.loads((desk / "runs/tiny/report.json").read_text().replace("@quick", "@elsewhere"))
    other["threat"]["eps"] = 0.05
    (desk / "other.json").write_text(json.dumps(other))
    done = command(desk, "compare", "tiny", "other.json")
    assert done.code == 0
    assert "not alike: threat: eps 0.1 against eps 0.05" in done.out
    assert "not alike: targets: quick against elsewhere" in done.out
    assert "--across does it all the same" in done.out
    rows = command(desk, "compare", "tiny", "other.json", "--json").document["rows"]
    assert {row["metric"] for row in rows if row["change"] is not None} >= {"ops", "params"}
    assert not [row for row in rows if "accuracy" in row["metric"] and row["change"] is not None]
    across = command(desk, "compare", "tiny", "other.json", "--across", "--json").document["rows"]
    assert all(row["change"] == 0 for row in across if row["metric"] == "robust_accuracy")


def test_doctor_looks_at_a_board(tmp_path, command):
    done = command(tmp_path, "doctor", "--target", "host-cpu")
    assert done.code == 0
    assert "onnxruntime" in done.out
    (tmp_path / "trt.yaml").write_text("name: trt\nbackend: {name: tensorrt}\nlink: local\n")
    done = command(tmp_path, "doctor", "--target", "trt.yaml")
    assert done.code == 4
    assert "fix: " in done.out
    as_json = command(tmp_path, "doctor", "--target", "trt.yaml", "--json")
    assert as_json.code == 4
    assert [finding["what"] for finding in as_json.document if not finding["ok"]] == ["tensorrt"]


@pytest.mark.parametrize("name", COMMANDS)
def test_help_of_a_command(tmp_path, command, name):
    done = command(tmp_path, name, "--help")
    assert done.code == 0
    assert f"Usage: robustdeploy {name}" in done.out


def test_help_loads_nothing_heavy(tmp_path):
    code = (
        "import sys; sys.argv = ['robustdeploy', '--help']\n"
        "from robustdeploy.cli import main\n"
        "try:\n    main()\nexcept SystemExit as end:\n    assert not end.code\n"
        "heavy = {'torch', 'numpy', 'onnx', 'onnxruntime', 'pydantic', 'yaml', 'scipy', 'sklearn', 'PIL'}\n"
        "print('HEAVY', sorted(heavy & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert "HEAVY []" in done.stdout
    assert all(name in done.stdout for name in COMMANDS)


def test_the_completion_script_can_be_shown(tmp_path):
    code = "import sys; sys.argv[1:] = ['--show-completion', 'bash']; from robustdeploy.cli import main; main()"
    # Typer looks for the shell among the processes above; with a second command this one does not become the first.
    words = ["bash", "-c", '"$0" -c "$1"; exit "$?"', sys.executable, code]
    done = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "_ROBUSTDEPLOY_COMPLETE" in done.stdout


def test_version(tmp_path, command):
    done = command(tmp_path, "--version")
    assert (done.code, done.out.split()[0]) == (0, "robustdeploy")


def test_runs_are_listed_with_state_verdict_and_figures(desk, command):
    done = command(desk, "ls", "runs")
    head, line = done.out.splitlines()
    assert head.split() == [
        "run",
        "state",
        "verdict",
        "clean",
        "%",
        "worst",
        "%",
        "ops",
        "%",
        "p99",
        "ms",
        "target",
        "age",
    ]
    assert line.split()[:2] == ["tiny", "reported"]
    assert "PASS" in line
    (listed,) = command(desk, "ls", "runs", "--json").document
    assert (listed["name"], listed["state"], listed["verdict"], listed["latest"]) == ("tiny", "reported", "PASS", True)
    assert listed["age_s"] >= 0
    nothing = command(desk, "ls", "runs", "--runs", "elsewhere")
    assert (nothing.code, nothing.out) == (0, "")
    assert "there is no run in elsewhere yet" in nothing.err


def test_compare_names_the_runs_and_shows_what_one_of_them_lacks(desk, command):
    report = json.loads((desk / "runs/tiny/report.json").read_text())
    report["name"] = "other"
    report["measurements"] = [row for row in report["measurements"] if row["metric"] != "params"]
    (desk / "other.json").write_text(json.dumps(report))
    done = command(desk, "compare", "tiny", "other.json")
    assert done.code == 0, done.err
    lines = done.out.splitlines()
    assert lines[0].startswith("tiny: tiny on quick, ")
    assert lines[1].startswith("other: other on quick, ")
    (head,) = [line for line in lines if line.endswith("unit") and "change" in line]
    assert head.split() == ["tiny", "other", "change", "unit"]
    (lacking,) = [line for line in lines if line.startswith("params (pruned/fp32@quick)")]
    assert "only in tiny" in lacking
    (clean,) = [line for line in lines if line.startswith("clean_accuracy (pruned/fp32@quick)")]
    assert clean.split()[-2:] == ["+0.00", "%"]


def test_each_summary_of_the_help_is_a_whole_sentence(tmp_path, command, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    lines = command(tmp_path, "--help").out.partition("Commands:\n")[2].rstrip().splitlines()
    assert [line.split()[0] for line in lines] == list(COMMANDS)
    for line in lines:
        assert line.endswith(".")
        assert not line.endswith("...")
        assert len(line) <= 80
