"""Numbers with limits and closed lists, for the options of plug-ins: they are checked, told and in the JSON Schema.

They can be read from a plug-in's file too, so that a wrong value is refused before the plug-in is imported.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

Count = Annotated[int, Field(ge=1)]
Whole = Annotated[int, Field(ge=0)]
Bits = Annotated[int, Field(ge=2, le=16)]
Severity = Annotated[int, Field(ge=1, le=5)]
Share = Annotated[float, Field(ge=0, lt=1)]
Step = Annotated[float, Field(gt=0, le=1)]
"""In pixels of [0, 1]."""
Rate = Annotated[float, Field(gt=0, le=1)]
Positive = Annotated[float, Field(gt=0)]
NotNegative = Annotated[float, Field(ge=0)]
LossName = Literal["cross-entropy", "margin", "dlr"]
"""What an attack may climb, see ``robustdeploy.attacks.losses``."""
