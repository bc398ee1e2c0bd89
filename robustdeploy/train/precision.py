"""Precision: which number format the training passes run in on the device at hand."""

from __future__ import annotations

from typing import Literal

import torch


def has_native_bf16(device: torch.device) -> bool:
    """Whether ``device`` multiplies bfloat16 in hardware; a CPU that does not emulates it ten times slower."""
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device) >= (8, 0)
    if device.type != "cpu":
        return False
    # Asked of torch, whose kernels are what will run, and which knows more processors than a list here could.
    features = torch.cpu.get_capabilities()
    return any(features.get(name) for name in ("avx512_bf16", "amx_bf16", "bf16", "arm_bf16"))


def resolved(precision: Literal["auto", "fp32", "bf16"], device: torch.device) -> torch.dtype:
    """Return the format that ``train.precision`` means on ``device``: auto is bfloat16 where the hardware has it."""
    if precision == "auto":
        return torch.bfloat16 if has_native_bf16(device) else torch.float32
    return torch.bfloat16 if precision == "bf16" else torch.float32
