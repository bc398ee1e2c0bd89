"""Torch form of ONNX's Resize: https://onnx.ai/onnx/operators/onnx__Resize.html."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
import torch.nn.functional as F
from torch import Tensor

from robustdeploy.nets.torch_windows import Attributes, Inputs, at, ints

_ROUNDED: Mapping[str, Callable[[Tensor], Tensor]] = {
    "round_prefer_floor": lambda places: (places - 0.5).ceil(),
    "round_prefer_ceil": lambda places: (places + 0.5).floor(),
    "floor": torch.floor,
    "ceil": torch.ceil,
}


def resize(i: Inputs, a: Attributes) -> Tensor:
    """Scale images; `NotImplementedError` names the ways that torch has no form of."""
    x, mode = i[0], a.get("mode", b"nearest").decode()
    where = a.get("coordinate_transformation_mode", b"half_pixel").decode()
    if a.get("axes") or a.get("keep_aspect_ratio_policy", b"stretch") != b"stretch":
        raise NotImplementedError("Resize with axes or another aspect ratio")
    if at(i, 3) is not None and i[3].numel():
        size = ints(i[3])
        scales = [new / old for new, old in zip(size, x.shape, strict=True)]
    else:
        scales = i[2].tolist()
        size = [int(n * s) for n, s in zip(x.shape, scales, strict=True)]
    smooth = {"linear": {3: "linear", 4: "bilinear", 5: "trilinear"}.get(x.dim()), "cubic": "bicubic"}.get(mode)
    over = bool(a.get("antialias", 0))
    if smooth is not None and where in ("half_pixel", "pytorch_half_pixel", "align_corners"):
        # What torch averages over ends at the image's edges, and its antialiased cubic is Pillow's.
        if over and (x.dim() != 4 or not a.get("exclude_outside", 0)):
            raise NotImplementedError("Resize with antialias beyond the edges")
        if mode == "cubic" and a.get("cubic_coeff_a", -0.75) != (-0.5 if over else -0.75):
            raise NotImplementedError("Resize by another cubic")
        return F.interpolate(x, size[2:], mode=smooth, align_corners=where == "align_corners", antialias=over)
    if mode not in ("nearest", "linear") or over:
        raise NotImplementedError(f"Resize by {mode}, {where}{', with antialias' if over else ''}")
    nearest = _ROUNDED[a.get("nearest_mode", b"round_prefer_floor").decode()] if mode == "nearest" else None
    for axis, (new, scale) in enumerate(zip(size, scales, strict=True)):
        if new != x.shape[axis] or scale != 1:
            x = _along(x, axis, _places(x.shape[axis], new, scale, where).to(x.device), nearest)
    return x


def upsample(i: Inputs, a: Attributes) -> Tensor:
    """Scale images as files before opset 10 do."""
    scales = at(i, 1) if at(i, 1) is not None else torch.tensor(a["scales"])
    how = {"coordinate_transformation_mode": b"asymmetric", "nearest_mode": b"floor"}
    return resize([i[0], torch.empty(0), scales], {"mode": a.get("mode", b"nearest"), **how})


def _places(old: int, new: int, scale: float, where: str) -> Tensor:
    """Return where each of ``new`` pixels lies among ``old`` ones, before any rounding."""
    at_new = torch.arange(new, dtype=torch.float32)
    if where == "asymmetric":
        return at_new / scale
    if where == "align_corners":
        return at_new * (old - 1) / max(1, new - 1)
    if where == "tf_half_pixel_for_nn":
        return (at_new + 0.5) / scale
    half = (at_new + 0.5) / scale - 0.5
    if where == "half_pixel_symmetric":
        # Scales that are no quotient of whole numbers would else move the image off its centre.
        return half + old / 2 * (1 - new / (scale * old))
    if where == "half_pixel" or (where == "pytorch_half_pixel" and new > 1):
        return half
    if where == "pytorch_half_pixel":
        return torch.zeros_like(half)
    raise NotImplementedError(f"Resize by {where}")


def _along(x: Tensor, axis: int, places: Tensor, nearest: Callable[[Tensor], Tensor] | None) -> Tensor:
    """Take what lies at ``places`` of an axis: the nearest pixel, or a mean of the two beside it."""
    last = x.shape[axis] - 1
    if nearest is not None:
        return x.index_select(axis, nearest(places).clamp(0, last).long())
    places = places.clamp(0, last)
    low = places.floor()
    share = (places - low).to(x.dtype).reshape(-1, *[1] * (x.dim() - axis - 1))
    below, above = (x.index_select(axis, each.clamp(max=last).long()) for each in (low, low + 1))
    return below + (above - below) * share
