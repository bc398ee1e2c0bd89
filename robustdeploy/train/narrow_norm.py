"""Batch normalisation of narrow layers, of a few channels, on a CPU: several pixels at a time.

torch normalises images that lie channels last a pixel at a time, in whole vectors, and the channels that are left over
one by one. Pruned layers seldom have whole vectors of channels: with 7, forward and back take eight times as long as
with 16. Here ``PIXELS`` neighbouring pixels are taken for one of so many times the channels, and their moments are put
together.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, cast

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

PIXELS = 32
VECTOR = 16
"""A multiple of so many channels is fast as it is."""
WIDE = 64
"""From so many channels on, what is left over is no great part."""
LARGE = 1 << 14
"""Pixels of a batch below which more and shorter calls cost more than they gain."""


class NarrowBatchNorm(TorchFunctionMode):
    """While entered, training passes normalise narrow layers as this module says; all else goes its usual way."""

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """Do ``func``, or what stands for it."""
        given = kwargs or {}
        # Caught at the function and not by exchanging layers: checkpoints, exports and pruning go on seeing torch's
        # own.
        if func is F.batch_norm and _fits(*args, **given):
            return narrow_batch_norm(*args, **given)
        return func(*args, **given)


def narrow_batch_norm(
    images: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor,
    bias: Tensor,
    training: bool = True,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Tensor:
    """Return what ``torch.nn.functional.batch_norm`` returns in training, and move the running statistics as it does.

    ``images`` are N×C×H×W and channels last, with N·H·W a multiple of PIXELS; weight and bias are float32.
    """
    result, mean, variance = cast(tuple[Tensor, Tensor, Tensor], _Normalised.apply(images, weight, bias, eps))
    count = images.numel() // images.shape[1]
    if running_mean is not None:
        running_mean.lerp_(mean, momentum)
    if running_var is not None:
        # torch normalises by the biased variance and keeps the unbiased one as its running statistic.
        running_var.lerp_(variance * (count / (count - 1)), momentum)
    return result


def _fits(
    images: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> bool:
    """Whether this is a narrow layer in training, large enough to be worth it."""
    return (
        training
        and images.device.type == "cpu"
        and images.dim() == 4
        and images.shape[1] < WIDE
        and images.shape[1] % VECTOR != 0
        and images.numel() >= LARGE * images.shape[1]
        and images.numel() // images.shape[1] % PIXELS == 0
        and images.dtype in (torch.float32, torch.bfloat16)
        and images.is_contiguous(memory_format=torch.channels_last)
        and all(value is not None and value.dtype == torch.float32 for value in (weight, bias))
        and all(value is None or value.dtype == torch.float32 for value in (running_mean, running_var))
        and not torch.compiler.is_compiling()  # a compiler has ways of its own
    )


class _Normalised(torch.autograd.Function):
    """Normalised images, with the mean and the variance of each channel, which are not followed back."""

    @staticmethod
    def forward(ctx: Any, images: Tensor, weight: Tensor, bias: Tensor, eps: float) -> tuple[Tensor, Tensor, Tensor]:
        channels, rows = images.shape[1], _in_rows(images)
        unused = images.new_zeros(2, PIXELS * channels, dtype=torch.float32)  # asks for statistics in float32
        # Not E[x²] − E[x]²: in float32 that loses all digits where a mean is far from zero.
        means, variances = torch.ops.aten.batch_norm_update_stats(rows, unused[0], unused[1], 0.0)
        means, variances = means.view(PIXELS, channels), variances.view(PIXELS, channels)
        # The law of total variance: mean of the variances plus variance of the means, exact as all parts hold equally
        # many pixels.
        mean, variance = means.mean(0), variances.mean(0) + means.var(0, unbiased=False)
        ctx.save_for_backward(images, weight, mean, variance)
        ctx.eps = eps
        ctx.mark_non_differentiable(mean, variance)
        return _scaled(rows, weight, bias, mean, variance, eps, images), mean, variance

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor, *_: Tensor) -> tuple[Tensor | None, ...]:
        images, weight, mean, variance = ctx.saved_tensors
        channels, count = images.shape[1], images.numel() // images.shape[1]
        rows = _in_rows(images)
        gradients = _in_rows(gradient.contiguous(memory_format=torch.channels_last))
        spread = (value.repeat(PIXELS) for value in (weight, mean, variance))
        # Only the two sums are asked of it. Its gradient of the images would be of each part's own statistics.
        _, by_weights, by_biases = torch.ops.aten.native_batch_norm_backward(
            gradients, rows, *spread, None, None, False, ctx.eps, [False, True, True]
        )
        by_weight, by_bias = by_weights.view(PIXELS, channels).sum(0), by_biases.view(PIXELS, channels).sum(0)
        # weight/σ · (gradient − by_bias/n − normalised · by_weight/n), with what goes with the images behind the rest
        one, per_image = torch.ones_like(variance) - ctx.eps, (variance + ctx.eps).rsqrt()
        scale = weight * per_image
        slope = -scale * per_image * by_weight / count
        shift = -scale * by_bias / count - slope * mean
        # Normalising with mean 0 and variance 1 − eps is a plain scale and shift, in torch's own fast kernel.
        whole = _scaled(gradients, scale, shift, torch.zeros_like(mean), one, ctx.eps, images)
        _in_rows(whole).addcmul_(rows, slope.repeat(PIXELS).to(rows.dtype).view(1, -1, 1, 1))
        return whole, by_weight, by_bias, None


def _scaled(
    rows: Tensor, weight: Tensor, bias: Tensor, mean: Tensor, variance: Tensor, eps: float, like: Tensor
) -> Tensor:
    """Return ``rows`` normalised by the statistics given, scaled and shifted, in the shape of ``like``."""
    weights, biases, means, variances = (value.repeat(PIXELS) for value in (weight, bias, mean, variance))
    result = torch.native_batch_norm(rows, weights, biases, means, variances, False, 0.0, eps)[0]
    return _as_images(result, like)


def _in_rows(images: Tensor) -> Tensor:
    """See N×C×H×W that lies channels last as 1×(PIXELS·C)×(N·H·W/PIXELS)×1, also channels last."""
    last = images.permute(0, 2, 3, 1)
    return last.reshape(1, -1, 1, PIXELS * images.shape[1]).permute(0, 3, 1, 2)


def _as_images(rows: Tensor, like: Tensor) -> Tensor:
    """Undo ``_in_rows``."""
    count, channels, height, width = like.shape
    return rows.permute(0, 2, 3, 1).view(count, height, width, channels).permute(0, 3, 1, 2)
