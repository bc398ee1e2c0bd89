"""float32: the exported file itself."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from robustdeploy.export.precision.protocol import IN_FLOAT32, Calibration, Limits
from robustdeploy.onboard.types import Pixels


@dataclass(frozen=True)
class Fp32:
    """What every net is exported in."""

    LIMITS: ClassVar[Limits] = IN_FLOAT32

    @property
    def calibration(self) -> Calibration | None:
        """None is needed."""
        return None

    def lower(self, onnx: Path, lowered: Path, images: Pixels | None) -> None:
        """Copy the file."""
        shutil.copyfile(onnx, lowered)


plugin = Fp32
