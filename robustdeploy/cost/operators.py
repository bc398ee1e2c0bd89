"""Torch's operators: which of them are products, with the sizes of each, and which multiply no two tensors and add up.

One MAC is one multiplication whose result is added to others: in convolutions, matrix products and what is made of
these (attention, recurrent cells). What works number by number, pools, normalises, interpolates or moves numbers has
none. An operator that is neither kind is not guessed at.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch import Tensor

Sizes = tuple[int, ...]
"""Numbers of outputs, of summands and so on; their product is a number of MACs."""


@dataclass(frozen=True)
class Kind:
    """A kind of product: which arguments are multiplied, and how large it is."""

    factors: slice
    """Which of the operator's arguments."""
    sizes: Callable[[Sequence[Any], Tensor], list[Sizes]]
    """From all arguments and the output, the sizes of the products it is made of; weights are of the first."""


def _convolution(given: Sequence[Any], output: Tensor) -> list[Sizes]:
    # By position, as the dispatcher passes all arguments of these operators.
    images, weight, transposed = given[0], given[1], given[6]
    # A transposed convolution multiplies each input pixel by the filter, a plain one sums for each output pixel.
    moved = images if transposed else output
    return [(moved.shape[0], math.prod(moved.shape[2:]), *weight.shape[:2], math.prod(weight.shape[2:]))]


def _matrices(left: Tensor, right: Tensor) -> list[Sizes]:
    """Return rows, summands and columns, behind the batch if there is one; a vector is one row or column."""
    return [(*left.shape, right.shape[-1] if right.dim() > 1 else 1)]


def _trilinear(given: Sequence[Any], output: Tensor) -> list[Sizes]:
    """A bilinear form: the first input by the weights, and what that gives by the second input."""
    first, weight, second = given[:3]
    return [(first.shape[0], *weight.shape[-3:]), (first.shape[0], weight.shape[-3], second.shape[-1])]


_FIRST_TWO = Kind(slice(0, 2), lambda given, _: _matrices(*given[:2]))
_BEHIND_A_SUMMAND = Kind(slice(1, 3), lambda given, _: _matrices(*given[1:3]))
PRODUCTS: dict[str, Kind] = {
    **dict.fromkeys(("convolution", "_convolution"), Kind(slice(0, 2), _convolution)),
    **dict.fromkeys(("mm", "bmm", "mv", "dot", "vdot", "_int_mm"), _FIRST_TWO),
    **dict.fromkeys(("addmm", "addbmm", "baddbmm", "addmv", "_addmm_activation"), _BEHIND_A_SUMMAND),
    "_trilinear": Kind(slice(0, 3), _trilinear),
}
"""By the operator's name."""

_NONE_THOUGH_CORE = frozenset({"_cdist_forward", "_pdist_forward", "_fft_c2r", "_fft_r2c"})
"""Operators of torch's core set that multiply and add, though by no product with the sizes of one."""
_NAMES = """
_add_relu _assert_async _assert_scalar _assert_tensor_metadata _batch_norm_no_update _batch_norm_with_update
_chunk_cat _embedding_bag_forward_only _functional_assert_async _masked_scale _native_batch_norm_legit_functional
_pack_padded_sequence _prelu_kernel _resize_output _safe_softmax _thnn_fused_gru_cell _thnn_fused_lstm_cell _unique
_unique2 _unsafe_index _unsafe_index_put _unsafe_masked_index _unsafe_view _upsample_bicubic2d_aa
_upsample_bilinear2d_aa _upsample_lanczos2d_aa _upsample_nearest_exact1d _upsample_nearest_exact2d
_upsample_nearest_exact3d _weight_norm_interface adaptive_avg_pool3d adaptive_max_pool2d adaptive_max_pool3d
affine_grid_generator as_strided_scatter avg_pool1d bernoulli bincount block_diag bucketize channel_shuffle complex
copysign cummax cummin cumprod diag_embed diagonal_scatter empty_like empty_permuted equal exponential eye
fake_quantize_per_channel_affine fake_quantize_per_channel_affine_cachemask fake_quantize_per_tensor_affine
fake_quantize_per_tensor_affine_cachemask _fake_quantize_per_tensor_affine_cachemask_tensor_qparams
floor_divide fractional_max_pool2d fractional_max_pool3d glu grid_sampler_3d hann_window hardswish heaviside im2col
index_add index_copy index_fill index_reduce is_same_size isin item kthvalue lift lift_fresh linalg_cross linspace
log_sigmoid_forward logcumsumexp logspace masked_fill masked_select max_unpool2d max_unpool3d median mish mode
multinomial nanmedian native_batch_norm new_empty new_empty_strided new_full new_ones new_zeros nonzero_static
normal ones ones_like pixel_shuffle pixel_unshuffle polar rand_like randint randint_like randn_like
repeat_interleave replication_pad1d resize roll rot90 rrelu_with_noise scatter_reduce searchsorted segment_reduce
set_ stack take trace tril tril_indices triu triu_indices uniform unique_consecutive unique_dim unsafe_split
unsafe_split_with_sizes upsample_bicubic2d upsample_linear1d upsample_nearest1d upsample_nearest3d
upsample_trilinear3d zero zeros zeros_like
"""
_NONE = frozenset(_NAMES.split())
"""Other operators without any; those that torch's own tags tell are not listed."""
_TAGS = frozenset({torch.Tag.pointwise, torch.Tag.reduction, torch.Tag.view_copy})


@cache
def name_of(operator: Any) -> str:
    """Return an operator's name without its library and overload; one that works in place has that of the other."""
    name = str(operator.overloadpacket.__name__)
    # Dunder names such as ``__and__`` end in underscores without working in place.
    return name if name.endswith("__") or name == "set_" else name.removesuffix("_")


@cache
def has_no_products(operator: Any) -> bool:
    """Whether ``operator`` certainly multiplies no two tensors and adds up."""
    if operator.namespace == "profiler":  # marks a place in a profile
        return True
    # An operator of another library may be anything, a product too.
    if operator.namespace not in ("aten", "prims", "prim"):
        return False
    name, overloads = name_of(operator), _overloads(operator)
    tags = {tag for overload in overloads for tag in overload.tags}
    if name in _NONE or tags & _TAGS or any(overload.is_view for overload in overloads):
        return True
    # torch's core set is small and was looked through once; all other operators have to be listed.
    return torch.Tag.core in tags and name not in PRODUCTS and name not in _NONE_THOUGH_CORE


def _overloads(operator: Any) -> list[Any]:
    """Return all forms of an operator, also those that do not work in place: torch tags these alone."""
    packet = operator.overloadpacket
    pure = getattr(torch.ops.aten, name_of(operator), packet)
    return [getattr(each, overload) for each in (packet, pure) for overload in each.overloads()]
