"""Tuner: what the process does that `tuning` starts."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from .compiling import Processor, fused, image_shape, imported, read_graph, target_for, vectors_of
from .graph import prepared
from .installed import compiler, runtime
from .tuning import tune, watch_parent


def main() -> None:
    """Tune what the first argument asks for."""
    asked = json.loads(sys.argv[1])
    watch_parent(asked["parent"])
    runtime(asked["runtime"])
    tvm, onnx = compiler(), Path(asked["onnx"])
    processor = Processor(asked["triple"], asked["cpu"], asked["cc"])
    target = target_for(tvm, processor)
    vectors = vectors_of(tvm, target, processor.machine)
    model = read_graph(onnx)
    module = imported(tvm, prepared(model, vectors, asked["pad"]), image_shape(model, onnx.name))
    tune(tvm, fused(tvm, module, target, vectors), target, vectors, asked["trials"], Path(asked["folder"]))
