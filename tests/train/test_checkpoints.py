from __future__ import annotations

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from robustdeploy.errors import TrainingError
from robustdeploy.train.checkpoints import KEPT, State, load_checkpoint, save_checkpoint


def state(step, training="", **values):
    generator = torch.Generator().manual_seed(step)
    return State(step, {"w": torch.randn(7, 5, generator=generator), "n": torch.tensor(step)}, values, training)


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_what_is_saved_comes_back(tmp_path):
    given = state(41, "this one", records=[{"loss": 0.1 + 0.2}], sums={"loss": 1e-300})
    save_checkpoint(tmp_path, given)
    found = load_checkpoint(tmp_path, "this one")
    assert (found.step, found.values, found.training) == (41, given.values, "this one")
    assert all(torch.equal(found.tensors[name], tensor) for name, tensor in given.tensors.items())


def test_there_is_nothing_to_load_at_first(tmp_path):
    assert load_checkpoint(tmp_path) is None
    assert load_checkpoint(tmp_path / "none") is None


def test_only_the_newest_remain(tmp_path):
    paths = [save_checkpoint(tmp_path, state(step)) for step in (1, 2, 10, 9_999_999)]
    assert names(tmp_path) == sorted(path.name for path in paths[-KEPT:])
    assert load_checkpoint(tmp_path).step == 9_999_999


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_a_damaged_one_is_passed_over_for_the_one_before(data, tmp_path_factory):
    folder = tmp_path_factory.mktemp("damaged")
    save_checkpoint(folder, state(1))
    path = save_checkpoint(folder, state(2))
    content = bytearray(path.read_bytes())
    place = data.draw(st.integers(0, len(content) - 1))
    if data.draw(st.booleans(), "torn"):
        content = content[:place]
    else:
        content[place] ^= data.draw(st.integers(1, 255))
    path.write_bytes(bytes(content))
    assert load_checkpoint(folder).step == 1


def test_an_edited_name_is_no_better(tmp_path):
    path = save_checkpoint(tmp_path, state(1))
    path.rename(path.with_name("step-000000002-0123456789abcdef.safetensors"))
    assert load_checkpoint(tmp_path) is None


def test_damaged_ones_never_push_out_sound_ones(tmp_path):
    """Both were damaged, so the training began anew; what it saves is of a lower step and must stay."""
    for step in (50, 60):
        path = save_checkpoint(tmp_path, state(step))
        path.write_bytes(path.read_bytes()[:-1])
    for step in (3, 4):
        save_checkpoint(tmp_path, state(step))
        assert load_checkpoint(tmp_path).step == step
    assert len(names(tmp_path)) == KEPT


def test_another_trainings_are_passed_over_and_give_way(tmp_path):
    for step in (50, 60):
        save_checkpoint(tmp_path, state(step, "old"))
    assert load_checkpoint(tmp_path, "new") is None
    assert load_checkpoint(tmp_path, "old").step == 60
    save_checkpoint(tmp_path, state(2, "new"))
    assert load_checkpoint(tmp_path, "new").step == 2


def test_what_a_kill_left_half_written_is_swept_up(tmp_path):
    save_checkpoint(tmp_path, state(1))
    (tmp_path / ".step-000000002-0123456789abcdef.deadbeef.safetensors").write_bytes(b"half")
    (tmp_path / "notes.txt").write_text("mine")
    save_checkpoint(tmp_path, state(3))
    assert [name for name in names(tmp_path) if name.startswith(".")] == []
    assert "notes.txt" in names(tmp_path)


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_values_that_are_not_finite_are_refused_and_the_old_one_stays(bad, tmp_path):
    save_checkpoint(tmp_path, state(1))
    before = names(tmp_path)
    sick = state(2)
    sick.tensors["w"][3, 3] = bad
    with pytest.raises(TrainingError, match="w is not finite at step 2, so it was not saved") as caught:
        save_checkpoint(tmp_path, sick)
    assert caught.value.exit_code == 3
    assert names(tmp_path) == before
    assert load_checkpoint(tmp_path).step == 1


def test_tensors_that_share_memory_are_saved_whole(tmp_path):
    base = torch.arange(12.0).view(3, 4)
    save_checkpoint(tmp_path, State(1, {"a": base, "b": base.t(), "c": base[1:]}, {}))
    found = load_checkpoint(tmp_path).tensors
    assert torch.equal(found["b"], base.t())
    assert torch.equal(found["c"], base[1:])
