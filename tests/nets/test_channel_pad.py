from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.func import functional_call

from robustdeploy.nets.channel_pad import ChannelPad, centred_index, kept_index, set_gains


def reference(images: torch.Tensor, stride: int, index: list[int]) -> torch.Tensor:
    small = images[:, :, ::stride, ::stride]
    return torch.stack([torch.zeros_like(small[:, 0]) if i < 0 else small[:, i] for i in index], 1)


def test_the_dense_choice_is_option_a() -> None:
    assert centred_index(2, 4) == [-1, 0, 1, -1]
    assert centred_index(2, 5) == [-1, 0, 1, -1, -1]


@st.composite
def pads(draw: st.DrawFn) -> tuple[int, int, list[int]]:
    inputs, outputs = draw(st.integers(1, 5)), draw(st.integers(1, 6))
    index = draw(st.lists(st.integers(-1, inputs - 1), min_size=outputs, max_size=outputs))
    return inputs, draw(st.integers(1, 2)), index


@given(pads(), st.booleans())
def test_every_choice_equals_the_definition(pad: tuple[int, int, list[int]], training: bool) -> None:
    inputs, stride, index = pad
    images = torch.rand(2, inputs, 5, 4)
    chosen = ChannelPad(inputs, len(index), stride, index).train(training)
    assert torch.equal(chosen(images), reference(images, stride, index))


@pytest.mark.parametrize("index", [None, [2, -1, 0, 1, -1]])
def test_training_leaves_images_and_gradients_channels_last_and_in_their_type(index: list[int] | None) -> None:
    images = torch.rand(2, 3, 6, 6, dtype=torch.bfloat16).contiguous(memory_format=torch.channels_last)
    images.requires_grad_()
    result = ChannelPad(3, 5, 2, index)(images)
    (gradient,) = torch.autograd.grad(result.float().square().sum(), images)
    assert result.dtype == torch.bfloat16
    assert result.is_contiguous(memory_format=torch.channels_last)
    assert gradient.is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(gradient[:, :, ::2, ::2], 2 * images[:, :, ::2, ::2])
    assert not gradient[:, :, 1::2].any()


@pytest.mark.parametrize(
    "index", [[-1, -1, 0, 1, 2, 3, -1, -1], [0, 1, 2, 3, -1, -1, -1, -1], list(range(4)) + [-1] * 4]
)
def test_contiguous_choices_take_the_short_way_and_are_equal(index: list[int]) -> None:
    pad = ChannelPad(4, 8, 2, index)
    images = torch.rand(2, 4, 6, 6)
    assert pad.padding is not None
    assert torch.equal(pad(images), reference(images, 2, index))


def test_masks_reach_the_gain_by_name() -> None:
    pad = ChannelPad(2, 4, 2)
    images = torch.rand(1, 2, 4, 4)
    mask = torch.tensor([1.0, 0.5, 0.0, 1.0], requires_grad=True)
    masked = functional_call(pad, {"gain": mask}, (images,))
    assert torch.equal(masked, pad(images) * mask.view(1, -1, 1, 1))
    masked.sum().backward()
    assert mask.grad is not None
    assert mask.grad[1] > 0
    assert mask.grad[0] == 0


def test_without_gain_the_output_is_the_same_and_the_state_never_holds_it() -> None:
    pad = ChannelPad(2, 4, 1, [1, -1, 0, 0])
    images = torch.rand(1, 2, 3, 3)
    before = pad(images)
    set_gains(pad, on=False)
    assert pad.gain is None
    assert torch.equal(pad(images), before)
    assert list(pad.state_dict()) == ["index"]
    set_gains(pad, on=True)
    assert pad.gain is not None


def test_loading_a_state_changes_the_choice() -> None:
    chosen, dense = ChannelPad(3, 4, 2, [2, -1, 0, 1]), ChannelPad(3, 4, 2)
    images = torch.rand(1, 3, 4, 4)
    dense.load_state_dict(chosen.state_dict())
    assert torch.equal(dense(images), chosen(images))


@given(st.data())
def test_kept_channels_give_the_rows_of_the_dense_output(data: st.DataObject) -> None:
    keep_in = sorted(data.draw(st.sets(st.integers(0, 3), min_size=1)))
    keep_out = sorted(data.draw(st.sets(st.integers(0, 7), min_size=1)))
    images = torch.rand(1, 4, 4, 4)
    gone = [c for c in range(4) if c not in keep_in]
    images[:, gone] = 0
    dense = ChannelPad(4, 8, 2)
    compact = ChannelPad(len(keep_in), len(keep_out), 2, kept_index(dense.index.tolist(), keep_in, keep_out))
    assert torch.equal(compact(images[:, keep_in]), dense(images)[:, keep_out])


@pytest.mark.parametrize("index", [[0, 1], [0, 1, 2, 2], [-2, 0, 1, 1]])
def test_a_choice_that_names_no_channel_is_refused(index: list[int]) -> None:
    with pytest.raises(ValueError, match="index must name 4 channels"):
        ChannelPad(2, 4, 1, index)
