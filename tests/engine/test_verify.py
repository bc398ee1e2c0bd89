"""What was done to a run behind its ledger's back, and what became of its stages: told by verify, gate and report."""

import json
import os
import re
import shutil

import pytest

from robustdeploy.core.asked import recipe_for
from robustdeploy.core.files import sha256_of_file
from robustdeploy.engine.manifest import FILE_NAME, read_manifest
from robustdeploy.engine.run import Run
from robustdeploy.engine.verify import verify_run

pytestmark = pytest.mark.slow  # they share the one run of the chain


def ledger(run):
    return run / "ledger.jsonl"


def cut_lines(run, count):
    lines = ledger(run).read_bytes().splitlines(keepends=True)
    ledger(run).write_bytes(b"".join(lines[:-count]))


def better(run):
    """Raise the clean accuracy that a report tells of, where its verdict still follows from it."""
    path = run / "report.json"
    document = json.loads(path.read_text())
    for row in document["measurements"]:
        if row["metric"] == "clean_accuracy":
            row.update(value=0.99, high=0.999)
    path.write_text(json.dumps(document))


def cut_the_last_line(run):
    cut_lines(run, 1)
    better(run)


def cut_five_bytes(run):
    os.truncate(ledger(run), ledger(run).stat().st_size - 5)
    better(run)


def cut_three_lines(run):
    cut_lines(run, 3)


def cut_all_but_the_recipe(run):
    ledger(run).write_bytes(ledger(run).read_bytes().splitlines(keepends=True)[0])


def edit_the_report(run):
    better(run)


def take_the_ledger_of_another_run_of_this_recipe(run):
    other = Run.for_recipe(run.parent / "elsewhere", Run.open(run, run.parent).recipe, "tiny")
    shutil.copy(ledger(other.root), ledger(run))


def remove_the_ledger(run):
    ledger(run).unlink()


def put_lines_in_another_order(run):
    lines = ledger(run).read_bytes().splitlines(keepends=True)
    lines[-1], lines[-2] = lines[-2], lines[-1]
    ledger(run).write_bytes(b"".join(lines))


def edit_rows_and_seal_them_again(run):
    """What another run's folder of the same recipe is too: whole in itself, but not what this ledger has."""
    folder = run / "boards/pruned/fp32@quick"
    text = (folder / "rows.json").read_text().replace('"clean_accuracy"', '"clean_accuracy" ')
    (folder / "rows.json").write_text(text)
    manifest = json.loads((folder / FILE_NAME).read_text())
    manifest["outputs"]["rows.json"] = sha256_of_file(folder / "rows.json")
    (folder / FILE_NAME).write_text(json.dumps(manifest))


def delete_the_outcomes(run):
    (run / "boards/pruned/fp32@quick/outcomes.npz").unlink()


def replace_the_recipe_by_another(run):
    text = (run / "recipe.yaml").read_text()
    (run / "recipe.yaml").write_text(text.replace("at_least: 0.05", "at_least: 0.01"))


TAMPERED = {
    cut_the_last_line: "report.json is not in the ledger: it was added, its writing was interrupted, or ledger.jsonl",
    cut_five_bytes: "report.json is not in the ledger",
    cut_three_lines: "report.json is not in the ledger",
    cut_all_but_the_recipe: "report.json is not in the ledger",
    edit_the_report: "report.json was changed",
    take_the_ledger_of_another_run_of_this_recipe: "not in the ledger",
    remove_the_ledger: "missing or empty|ledger.jsonl names",
    put_lines_in_another_order: "does not follow from the line before",
    edit_rows_and_seal_them_again: "boards/pruned/fp32@quick/manifest.json was changed",
    delete_the_outcomes: "outcomes.npz is missing",
    replace_the_recipe_by_another: "recipe.yaml was changed|ledger.jsonl names",
}


@pytest.mark.parametrize("damage", TAMPERED, ids=lambda damage: damage.__name__)
def test_what_was_done_behind_the_ledgers_back_is_told_and_not_judged(desk, command, damage):
    run = desk / "runs/tiny"
    damage(run)
    for words in (["verify"], ["gate"], ["gate", "runs/tiny/report.json"]):
        done = command(desk, *words)
        assert (done.code, done.out) == (2, ""), words
        assert re.search(TAMPERED[damage], done.err), words
        assert "Traceback" not in done.err


def test_an_edited_report_is_not_judged_through_a_link_and_a_file_alone_is_told_to_be_one(desk, command, tmp_path):
    edit_the_report(desk / "runs/tiny")
    (tmp_path / "alone.json").write_bytes((desk / "runs/tiny/report.json").read_bytes())
    (tmp_path / "link.json").symlink_to(desk / "runs/tiny/report.json")
    done = command(desk, "gate", tmp_path / "link.json")
    assert (done.code, done.out) == (2, "")
    assert "report.json was changed" in done.err
    assert "lies in no run's folder, so it is judged as it is" in command(desk, "gate", tmp_path / "alone.json").err


def test_an_untouched_run_is_whole(chain, command):
    assert verify_run(chain / "runs/tiny") == []
    assert command(chain, "gate").code == 0
    assert command(chain, "gate", "runs/tiny/report.json").code == 0


def test_what_was_added_is_told(desk):
    run = desk / "runs/tiny"
    (run / "boards/pruned/fp32@quick/extra.json").write_text("{}")
    (run / "report-mine.json").write_text("{}")
    (run / "nets/pruned/link").symlink_to(desk / "tiny.yaml")
    (run / "notes.txt").write_text("a note beside the stages is nobody's claim")
    (run / "nets/pruned/checkpoints").mkdir(exist_ok=True)
    (run / "nets/pruned/checkpoints/left").write_text("")
    told = verify_run(run)
    assert len([line for line in told if "extra.json was added" in line]) == 1
    assert len([line for line in told if "report-mine.json is not in the ledger" in line]) == 1
    assert len([line for line in told if "nets/pruned/link is a link" in line]) == 1
    assert not any("notes" in line or "checkpoints" in line for line in told)


@pytest.mark.parametrize("place", ["boards/pruned/fp32@quick", "attacks/pruned/fp32", "nets/dense"])
def test_a_stage_that_is_a_link_to_another_run_is_told_and_not_believed(desk, command, place):
    run = desk / "runs/tiny"
    (run / place).rename(desk / "away")
    (run / place).symlink_to(desk / "away")
    assert any(f"{place} is a link" in line for line in verify_run(run))
    for words in (["gate"], ["report"]):
        done = command(desk, *words)
        assert (done.code, f"{place} leads out of the run through a link" in done.err) == (2, True), done.err


def as_folder(path):
    path.unlink()
    path.mkdir()


def as_bytes(path):
    path.write_bytes(b"\xff\xfe\x00\x01" * 50)


def as_nest(path):
    path.write_text("[" * 100_000 + "\n")


def as_nothing(path):
    path.write_bytes(b"")


def as_surrogate(path):
    line = {"n": 0, "time": "", "event": "x", "data": {"a": "\ud800"}, "previous": "0" * 64, "hash": "0" * 64}
    path.write_text(json.dumps(line) + "\n")


@pytest.mark.parametrize("how", [as_folder, as_bytes, as_nest, as_nothing, as_surrogate])
@pytest.mark.parametrize(
    "name",
    [
        "ledger.jsonl",
        "report.json",
        "boards/pruned/fp32@quick/manifest.json",
        "boards/pruned/fp32@quick/rows.json",
        "recipe.yaml",
    ],
)
def test_what_cannot_be_read_is_told_and_never_a_traceback(desk, command, name, how):
    how(desk / "runs/tiny" / name)
    for words in (["verify"], ["verify", "--json"], ["gate"], ["report"]):
        done = command(desk, *words)
        assert "Traceback" not in done.err
        if words == ["report"] and name == "report.json":
            continue  # it is written again
        assert done.code == 2, (words, done.err)
        assert len(done.err.splitlines()) < 12


def retrain(run):
    """Put other weights into the run's own net, sealed as a training seals them."""
    opened = Run.open(run, run.parent)
    held = read_manifest(run / "nets/pruned")
    stage = opened.slot("train", "nets/pruned", held.inputs, held.parameters)
    folder = stage.begin()
    weights = folder / "model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    stage.seal([folder / name for name in held.outputs], held.facts)


def test_a_new_net_is_not_joined_with_an_old_evaluation(desk, command):
    run = desk / "runs/tiny"
    retrain(run)
    for words in (["report"], ["gate"], ["gate", "--target", "quick"], ["verify"]):
        done = command(desk, *words)
        assert (done.code, done.out) == (2, ""), words
        assert "fp32@quick is out of date: it was made from another nets/pruned/model.safetensors than is" in done.err
        assert re.search(r"`robustdeploy export \S+ --target quick` and `robustdeploy evaluate", done.err)
    done = command(desk, "evaluate", "--target", "quick.yaml")
    assert done.code == 2
    assert "onnx/pruned/fp32 is out of date" in done.err


def test_an_export_made_anew_leaves_the_evaluation_behind(desk, command):
    run = desk / "runs/tiny"
    assert command(desk, "export", "--target", "quick.yaml", "--force").code == 0
    assert command(desk, "gate").code == 2  # another export manifest: the same net, but not what the report names
    assert "out of date" in command(desk, "gate").err
    assert command(desk, "report").code == 0
    assert command(desk, "gate").code == 0
    assert verify_run(run) == []


def test_an_evaluation_under_settings_that_the_recipe_had_is_out_of_date(desk, command):
    run = desk / "runs/tiny"
    asked = recipe_for(
        desk / "tiny.yaml", overrides=["evaluate.limit=50", "evaluate.attacks=[fgsm, {name: square, queries: 9}]"]
    )
    # As ``prune --force`` does it, with the same net in the end.
    Run.for_recipe(run.parent, asked, "tiny", anew=True)
    for words in (["report"], ["gate"], ["gate", "runs/tiny/report.json"], ["verify"]):
        done = command(desk, *words)
        assert done.code == 2
        assert "boards/pruned/fp32@quick is out of date: it was made from other settings than the recipe" in done.err
        assert "evaluate.limit is 60, in the recipe 50" in done.err
        assert re.search("; `robustdeploy evaluate .*runs/tiny --target quick` makes it again", done.err)
    assert command(desk, "evaluate", "--target", "quick.yaml").code == 0
    assert command(desk, "report").code == 0
    done = command(desk, "gate")
    assert (done.code, "only 50 test images were used" in done.out) == (0, True)
    assert verify_run(run) == []


def test_an_evaluation_that_did_not_finish_leaves_no_verdict(desk, command):
    run = desk / "runs/tiny"
    opened = Run.open(run, run.parent)
    held = read_manifest(run / "boards/pruned/fp32@quick")
    opened.slot("measure", "boards/pruned/fp32@quick", held.inputs, held.parameters).begin()  # the board is down
    done = command(desk, "gate")
    assert (done.code, done.out) == (2, "")
    assert "boards/pruned/fp32@quick is not finished any more; `robustdeploy" in done.err
    assert command(desk, "verify").code == 2
    assert command(desk, "report").code == 2


def test_a_torn_last_line_alone_is_no_damage(desk):
    run = desk / "runs/tiny"
    with ledger(run).open("ab") as stream:
        stream.write(b'{"n": 99, "time"')
    assert verify_run(run) == []


def test_a_report_of_an_older_version_is_still_read(desk, command):
    run = desk / "runs/tiny"
    path = desk / "old.json"
    document = json.loads((run / "report.json").read_text())
    for name in ("label", "overrides", "omissions"):
        del document[name]
    for name in ("warnings", "unchecked"):
        del document["verdict"][name]
    path.write_text(json.dumps(document))
    done = command(desk, "gate", "old.json")
    assert done.code == 0
    assert done.out.startswith("PASS")
