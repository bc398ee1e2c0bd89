from types import SimpleNamespace

import pytest

from robustdeploy.engine.overview import Overview, protocol_of
from robustdeploy.report import history
from robustdeploy.report.history import LONGEST, history_of


def one(name, began, **changes):
    fields = {
        "name": name,
        "folder": name,
        "state": "reported",
        "detail": "",
        "process": None,
        "latest": False,
        "targets": ("jetson-orin",),
        "verdict": "PASS",
        "warnings": 0,
        "clean": 0.9,
        "worst": 0.5,
        "ops": 0.3,
        "p99_ms": 2.0,
        "updated": began,
        "began": began,
        "recipe": "mine",
        "protocol": "CIFAR-10, linf 0.0313725",
    }
    return Overview(**(fields | changes))


@pytest.fixture
def shelf(monkeypatch):
    """Runs in one folder, by what is given; the one in question is named ``now``."""

    def put(*found):
        monkeypatch.setattr(history, "overviews", lambda folder: list(found))
        monkeypatch.setattr(history, "overview", lambda root: next(each for each in found if each.name == root.name))

    return put


def test_only_earlier_runs_of_the_same_kind_are_history(shelf, report, tmp_path):
    shelf(
        one("now", "2026-03"),
        one("later", "2026-04"),
        one("first", "2026-01", worst=0.4),
        one("second", "2026-02"),
        one("other recipe", "2026-02", recipe="theirs"),
        one("other target", "2026-02", targets=("host-cpu",)),
        one("other threat", "2026-02", protocol="CIFAR-10, linf 0.1"),
        one("damaged", None),
    )
    run = SimpleNamespace(root=tmp_path / "now", recipe=SimpleNamespace(name="mine"))
    found = history_of(run, report)
    assert [(each.name, each.worst) for each in found] == [("first", 0.4), ("second", 0.5)]


def test_history_ends_somewhere(shelf, report, tmp_path):
    shelf(one("now", "9"), *(one(f"r{number}", f"{number}") for number in range(9)), *(one(f"x{n}", "0") for n in "ab"))
    run = SimpleNamespace(root=tmp_path / "now", recipe=SimpleNamespace(name="mine"))
    found = history_of(run, report)
    assert len(found) == LONGEST
    assert found[-1].name == "r8"


def test_a_protocol_names_data_threat_and_images():
    told = {"data": {"name": "digits", "test": 1544}, "threat": {"norm": "linf", "eps": 0.1}}
    assert protocol_of(told) == "digits, linf 0.1, 1,544 images"
    assert protocol_of({"verdict": {}}) is None
