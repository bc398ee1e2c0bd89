import json
import subprocess
import sys
import threading
from datetime import UTC, datetime

import pytest

from robustdeploy.engine.ledger import Ledger
from robustdeploy.errors import ArtifactError


@pytest.fixture
def ledger(tmp_path):
    ledger = Ledger(tmp_path / "ledger.jsonl", now=lambda: datetime(2030, 1, 2, tzinfo=UTC))
    for n in range(4):
        ledger.append("step", value=n, share=0.1 * n)
    return ledger


def _edit(ledger, number, change):
    lines = ledger.path.read_text().splitlines(keepends=True)
    lines[number - 1] = change(lines[number - 1])
    ledger.path.write_text("".join(lines))


def test_events_come_back_in_order_and_chained(ledger):
    records = ledger.records()
    assert [r.data["value"] for r in records] == [0, 1, 2, 3]
    assert [r.previous for r in records[1:]] == [r.hash for r in records[:-1]]
    assert records[0].time == "2030-01-02T00:00:00.000+00:00"
    ledger.verify()


def test_an_absent_ledger_is_empty(tmp_path):
    assert Ledger(tmp_path / "none").records() == []


@pytest.mark.parametrize("kept", [1, 20, 150])
def test_a_line_torn_by_a_kill_is_cut_on_the_next_append(ledger, kept):
    whole = ledger.path.read_bytes()
    last = whole.splitlines(keepends=True)[-1]
    ledger.path.write_bytes(whole + last[:kept])
    assert len(ledger.records()) == 4
    assert ledger.path.read_bytes() == whole + last[:kept], "reading changes nothing"
    ledger.append("next")
    assert [r.event for r in ledger.records()] == ["step"] * 4 + ["next"]


@pytest.mark.parametrize(
    ("change", "number"),
    [
        (lambda line: line.replace('"value":1', '"value":7'), 2),
        (lambda line: "", 2),
        (lambda line: line * 2, 3),
        (lambda line: "not json\n", 2),
        (lambda line: "{}\n", 2),
        (lambda line: line[:-20] + "\n", 2),
    ],
)
def test_any_other_change_is_told_with_its_line(ledger, change, number):
    _edit(ledger, 2, change)
    for use in (ledger.verify, lambda: ledger.append("next")):
        with pytest.raises(ArtifactError, match=rf"ledger.jsonl: line {number} "):
            use()


def test_a_line_forged_with_a_fitting_hash_breaks_the_next(ledger):
    def forge(line):
        record = ledger._record(2, line.encode())
        changed = record.model_copy(update={"data": {"value": 7}})
        return json.dumps(changed.model_copy(update={"hash": changed.computed_hash()}).model_dump()) + "\n"

    _edit(ledger, 2, forge)
    with pytest.raises(ArtifactError, match="line 3 does not follow"):
        ledger.verify()


def test_two_processes_may_append_at_once(tmp_path):
    code = (
        "import sys; from pathlib import Path; from robustdeploy.engine.ledger import Ledger\n"
        "for n in range(15): Ledger(Path(sys.argv[1])).append('x', n=n)"
    )
    path = tmp_path / "ledger.jsonl"
    processes = [subprocess.Popen([sys.executable, "-c", code, str(path)]) for _ in range(2)]
    assert [p.wait(60) for p in processes] == [0, 0]
    assert len(Ledger(path).records()) == 30


def test_a_kill_while_appending_loses_no_finished_line(tmp_path):
    code = (
        "import sys; from pathlib import Path; from robustdeploy.engine.ledger import Ledger\n"
        "for n in range(10**6):\n    Ledger(Path(sys.argv[1])).append('x', n=n)\n    print(n, flush=True)"
    )
    path = tmp_path / "ledger.jsonl"
    with subprocess.Popen([sys.executable, "-c", code, str(path)], stdout=subprocess.PIPE, text=True) as process:
        for _ in range(5):
            process.stdout.readline()
        process.kill()
        done = 5 + len(process.stdout.readlines())
    assert done <= len(Ledger(path).records()) <= done + 1
    Ledger(path).append("after")


def test_a_ledger_is_read_while_another_process_adds_to_it(tmp_path):
    ledger = Ledger(tmp_path / "ledger.jsonl")
    ledger.append("recipe", number=0)
    ended = threading.Event()

    def add():
        for number in range(1, 300):
            ledger.append("recipe", number=number)
        ended.set()

    writer = threading.Thread(target=add)
    writer.start()
    seen = []
    while not ended.is_set():
        seen.append(len(ledger.records()))
    writer.join()
    assert seen == sorted(seen)
    assert len(ledger.records()) == 300
