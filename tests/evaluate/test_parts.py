import numpy as np
import pytest

from robustdeploy.engine.ledger import Ledger
from robustdeploy.evaluate.parts import Parts

MARK, OTHER = "a" * 64, "b" * 64


@pytest.fixture
def ledger(tmp_path):
    return Ledger(tmp_path / "ledger.jsonl")


def never():
    raise AssertionError("a sealed part was made again")


def test_a_sealed_part_is_never_made_again(tmp_path, ledger):
    made = Parts(tmp_path, MARK, ledger).get("fgsm-00000", lambda: {"x": np.arange(5)})
    again = Parts(tmp_path, MARK, ledger).get("fgsm-00000", never)
    np.testing.assert_array_equal(made["x"], again["x"])
    assert [r.event for r in ledger.records()] == ["part"]


def test_parts_of_other_work_do_not_count(tmp_path, ledger):
    Parts(tmp_path, MARK, ledger).get("p", lambda: {"x": np.zeros(2)})
    assert Parts(tmp_path, OTHER, ledger).get("p", lambda: {"x": np.ones(2)})["x"].sum() == 2


def test_a_part_that_is_not_in_the_ledger_or_was_changed_is_made_again(tmp_path, ledger):
    parts = Parts(tmp_path, MARK, ledger)
    parts.get("p", lambda: {"x": np.zeros(2)})
    (path,) = tmp_path.glob("parts/*/p.npz")
    path.write_bytes(path.read_bytes()[:-3])
    assert Parts(tmp_path, MARK, ledger).get("p", lambda: {"x": np.ones(2)})["x"].sum() == 2
    (path.parent / "q.npz").write_bytes(path.read_bytes())
    assert Parts(tmp_path, MARK, ledger).get("q", lambda: {"x": np.full(2, 3)})["x"].sum() == 6


def test_a_failure_seals_nothing(tmp_path, ledger):
    with pytest.raises(AssertionError):
        Parts(tmp_path, MARK, ledger).get("p", never)
    assert ledger.records() == []
    assert list(tmp_path.rglob("*.npz")) == []
