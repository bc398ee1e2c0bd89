"""Several targets in one run and one report: a verdict each, one attack for all, and a lost one that stops nothing."""

import json

import pytest

from robustdeploy.engine.ledger import Ledger

RUN = ["run", "tiny.yaml", "--name", "tiny", "--target", "quick.yaml"]
FAR = "name: far\nchannel_multiple: 16\nlink: {name: ssh, host: nowhere.invalid}\n"
TWIN = "extends: host-cpu\nname: twin\nlatency: {warmup_s: 0.01, min_s: 0.05, max_s: 1, min_samples: 100}\n"


def report(desk):
    return json.loads((desk / "runs/tiny/report.json").read_text())


def sealed(desk):
    records = Ledger(desk / "runs/tiny/ledger.jsonl").records()
    return [record.data["folder"] for record in records if record.event == "sealed"]


@pytest.mark.slow
def test_two_targets_come_into_one_report_and_are_attacked_once(desk, command):
    before = sealed(desk)
    (desk / "twin.yaml").write_text(TWIN)
    done = command(desk, *RUN, "--target", "twin.yaml")
    assert done.code == 0, done.err
    # The first target is done, and what was found in torch for it is replayed on the second.
    made = ("engines/pruned", "engines/dense", "boards/pruned")
    assert sealed(desk) == [*before, *(f"{place}/fp32@twin" for place in made)]
    made = report(desk)
    assert [each["subject"] for each in made["verdict"]["subjects"]] == ["pruned/fp32@quick", "pruned/fp32@twin"]
    assert {each["outcome"] for each in made["verdict"]["subjects"]} == {"PASS"}
    rules = [(line["rule"], line["subject"]) for line in made["verdict"]["rules"]]
    assert len(rules) == len(set(rules)) == 2 * len(made["rules"])
    rows = [json.dumps(row, sort_keys=True) for row in made["measurements"]]
    assert len(rows) == len(set(rows))
    # Both targets run the same file, so what they are replayed gives the same labels.
    robust = {
        (row["subject"], row["attack"]): row["value"]
        for row in made["measurements"]
        if row["metric"] == "robust_accuracy" and row["kind"] == "transfer"
    }
    for (subject, attack), value in robust.items():
        if subject == "pruned/fp32@quick":
            assert robust["pruned/fp32@twin", attack] == value
    for words in (["verify"], ["gate"], ["report"], ["gate", "runs/tiny/report.json"]):
        done = command(desk, *words)
        assert done.code == 0, done.err
    assert "pruned/fp32@twin" in command(desk, "gate").out
    assert command(desk, "ls", "runs").out.splitlines()[1].count("quick, twin") == 1


@pytest.mark.slow
def test_a_lost_target_stops_no_other_and_is_inconclusive(desk, command):
    (desk / "far.yaml").write_text(FAR)
    done = command(desk, *RUN, "--target", "far.yaml")
    assert done.code == 3, done.err
    assert "far is lost: " in done.err
    outcomes = {each["subject"]: each["outcome"] for each in report(desk)["verdict"]["subjects"]}
    assert outcomes == {"pruned/fp32@quick": "PASS", "pruned/fp32@far": "INCONCLUSIVE"}
    assert "not measured: " in done.out
    assert "nowhere.invalid" in done.out
    # The report that a later command writes has not forgotten it, and the other target can be judged by itself.
    assert command(desk, "report").code == 0
    assert command(desk, "gate").code == 3
    alone = command(desk, "gate", "--target", "quick", "--quiet")
    assert (alone.code, "far" in alone.out) == (0, False)
    assert command(desk, "gate", "--target", "far").code == 3
    # One that names the others alone says nothing of it, says so, and leaves the report of all alone.
    before = (desk / "runs/tiny/report.json").read_bytes()
    done = command(desk, "report", "--target", "quick")
    assert done.code == 0
    assert "runs/tiny/report.json stays as it is; this one is of quick alone" in done.out
    assert "next: robustdeploy gate runs/tiny/report-quick.json" in done.out
    assert (desk / "runs/tiny/report.json").read_bytes() == before
    assert command(desk, "gate").code == 3
    done = command(desk, "gate", "runs/tiny/report-quick.json")
    assert (done.code, "not checked  the run has other targets that are not told here: far; " in done.out) == (0, True)
    assert command(desk, "verify").code == 0
    (desk / "runs/tiny/report-quick.json").write_bytes(before)
    done = command(desk, "verify")
    assert (done.code, "report-quick.json was changed" in done.err) == (2, True)
    done = command(desk, "gate", "runs/tiny/report-quick.json")
    assert (done.code, "runs/tiny --target quick` writes it again" in done.err) == (2, True)


@pytest.mark.exhaustive
@pytest.mark.slow
def test_a_target_that_is_lost_before_its_board_is_asked_is_not_forgotten_either(desk, command):
    # Another target of a name that the run has results of: refused before anything of it is begun.
    (desk / "twin.yaml").write_text(TWIN)
    assert command(desk, "evaluate", "--target", "twin.yaml").code == 0
    (desk / "twin.yaml").write_text(TWIN + "opset: 19\n")
    before = sealed(desk).count("boards/pruned/fp32@twin")
    assert command(desk, *RUN, "--target", "twin.yaml").code == 3
    assert sealed(desk).count("boards/pruned/fp32@twin") == before == 1
    assert "onnx/pruned/fp32.opset19" not in sealed(desk)
    assert command(desk, "report").code == 0
    done = command(desk, "gate")
    assert (done.code, "results of another target called twin" in done.out) == (3, True)
    # Once it has been measured, nothing is lost any more.
    assert command(desk, "export", "--target", "twin.yaml").code == 0
    assert command(desk, "evaluate", "--target", "twin.yaml", "--force").code == 0
    assert command(desk, "report").code == 0
    assert command(desk, "gate").code == 0


@pytest.mark.slow
def test_several_targets_under_other_settings_than_the_runs_are_refused_at_once(desk, command):
    (desk / "twin.yaml").write_text(TWIN)
    done = command(desk, *RUN, "--target", "twin.yaml", "--set", "evaluate.limit=50")
    assert done.code == 2
    assert "evaluate.limit is 50, in the recipe 60" in done.err
    assert not (desk / "runs/tiny/engines/pruned/fp32@twin").exists()


def test_no_target_is_called_as_the_reference_is(tmp_path, command):
    (tmp_path / "torch.yaml").write_text("extends: host-cpu\nname: torch\n")
    done = command(tmp_path, "validate", "torch.yaml")
    assert (done.code, "the place of the host's reference" in done.err) == (2, True)


@pytest.mark.slow
def test_where_every_target_is_lost_the_error_is_told(desk, command):
    (desk / "far.yaml").write_text(FAR)
    (desk / "away.yaml").write_text(FAR.replace("far", "away"))
    done = command(desk, "run", "tiny.yaml", "--name", "tiny", "--target", "far.yaml", "--target", "away.yaml")
    assert (done.code, "nowhere.invalid" in done.err) == (4, True)


@pytest.mark.parametrize("name", ["quick.yaml", "host-cpu"])
def test_the_same_target_twice_is_refused(desk, command, name):
    done = command(desk, "run", "tiny.yaml", "--target", name, "--target", name)
    assert (done.code, "was given twice" in done.err) == (2, True)
