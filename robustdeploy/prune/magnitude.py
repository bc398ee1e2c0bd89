"""Magnitude: weights compete by their absolute value alone."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor


class Magnitude:
    """A scorer without a state."""

    def values(self, weights: Sequence[Tensor], keeps: Sequence[Tensor]) -> list[Tensor]:
        """Return the absolute values."""
        return [value.abs() for value in weights]
