"""What TensorRT's engine inspector wrote of an engine, counted by the kind of layer and the precision it gives."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Mapping
from typing import Any

from ..errors import ArtifactError

_KINDS = {
    **dict.fromkeys(("int8",), "i8"),
    **dict.fromkeys(("fp8", "float8"), "f8"),
    **dict.fromkeys(("bf16", "bfloat16"), "bf16"),
    **dict.fromkeys(("half", "fp16", "float16"), "f16"),
    **dict.fromkeys(("float", "fp32"), "f32"),
}
_KIND = re.compile("|".join(_KINDS), re.IGNORECASE)


def layers_from(told: bytes) -> Mapping[str, Any]:
    """Count the layers of an engine by kind and the precision they give, from the inspector's text."""
    try:
        layers = json.loads(told).get("Layers", [])
    except (ValueError, AttributeError):
        raise ArtifactError("layers.json is not what TensorRT's inspector wrote; compile the engine again") from None
    counts: Counter[str] = Counter()
    for layer in layers:
        if not isinstance(layer, dict):  # a name alone, of an engine that was built with less to tell
            counts["unknown"] += 1
            continue
        first: Any = next(iter(layer.get("Outputs") or []), {})
        match = _KIND.search(str(first.get("Format/Datatype", "")) if isinstance(first, dict) else "")
        counts[f"{layer.get('LayerType', 'unknown')} {_KINDS[match[0].lower()] if match else 'unknown'}"] += 1
    return {"layers": dict(counts)}
