"""Twins: our torch form of ONNX files of others beside that of onnx2pytorch, both against ONNX Runtime.

    uv run --with onnx2pytorch==0.6.0 python benchmarks/twins.py

Each net of `zoo.py` is exported, and some of the files are quantised or cast to 16 bits. Either converter makes a torch
net of each file. What is printed is the greatest difference of a score, as a share of the largest score, on held-out
digits, all at once and one by one; and that of the gradient from the gradient of the net that was exported.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import torch
from torch import Tensor, nn
from zoo import ZOO, exported

from robustdeploy.core.load import load_recipe
from robustdeploy.data.load import load_data
from robustdeploy.nets.graph import session_of, twin_of
from robustdeploy.onboard.types import pixels_from_bytes

Converter = Callable[[onnx.ModelProto], nn.Module]
FORMS = ("fp32", "QDQ", "QLinear", "fp16")


def main(words: Sequence[str] | None = None) -> int:
    """Convert every file both ways and print a table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--nets", nargs="+", default=list(ZOO), choices=list(ZOO))
    parser.add_argument("--opsets", type=int, nargs="+", default=[18])
    parser.add_argument("--forms", nargs="+", default=["fp32"], choices=FORMS)
    parser.add_argument("--images", type=int, default=8)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args(words)
    converters: dict[str, Converter] = {"ours": lambda model: twin_of(model.SerializeToString())}
    try:
        from onnx2pytorch import ConvertModel

        converters["onnx2pytorch"] = lambda model: ConvertModel(model, experimental=True).eval()
    except ImportError:
        print("onnx2pytorch is not installed, and only our twin is measured", file=sys.stderr)
    images = load_data(load_recipe("digits-resnet8", ["data.size=32"]).data).validation.images[: options.images]
    pixels = pixels_from_bytes(images.numpy())
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for name, opset, net, path in _files(options.nets, options.opsets, Path(folder)):
            for form in options.forms:
                model = formed(path, form, pixels)
                own = net if form == "fp32" else None
                found = {each: measured(make, model, own, pixels) for each, make in converters.items()}
                rows.append({"net": name, "opset": opset, "form": form, **found})
                if not options.json:
                    print(_line(rows[-1], converters), flush=True)
    if options.json:
        print(json.dumps(rows, indent=2))
    return 0


def formed(path: Path, form: str, pixels: npt.NDArray[np.float32]) -> onnx.ModelProto:
    """Return the file as it is, or quantised by ONNX Runtime on ``pixels``, or with its numbers in 16 bits."""
    if form == "fp32":
        return onnx.load(path)
    if form == "fp16":
        from onnxruntime.transformers.float16 import convert_float_to_float16

        half: onnx.ModelProto = convert_float_to_float16(onnx.load(path), keep_io_types=True)
        return half
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, quantize_static

    class Reader(CalibrationDataReader):  # type: ignore[misc]
        """The images, one by one."""

        def __init__(self) -> None:
            self.left = [{onnx.load(path).graph.input[0].name: image[None]} for image in pixels]

        def get_next(self) -> dict[str, Any] | None:
            """Return one more image."""
            return self.left.pop() if self.left else None

    kind = QuantFormat.QDQ if form == "QDQ" else QuantFormat.QOperator
    goal = path.with_suffix(f".{form}.onnx")
    quantize_static(path, goal, Reader(), quant_format=kind)
    return onnx.load(goal)


def measured(
    make: Converter, model: onnx.ModelProto, own: nn.Module | None, pixels: npt.NDArray[np.float32]
) -> dict[str, Any]:
    """Return how far a converter's net is from ONNX Runtime, and its gradient from that of ``own``; or its error."""
    session = session_of(model.SerializeToString())
    name = model.graph.input[0].name
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            twin = make(model)
            found: dict[str, Any] = {}
            for said, parts in (("together", [pixels]), ("alone", np.split(pixels, len(pixels)))):
                theirs = np.concatenate([session.run(None, {name: part})[0] for part in parts])
                with torch.no_grad():
                    ours = np.concatenate([twin(torch.from_numpy(part)).numpy() for part in parts])
                found[said] = float(np.abs(ours - theirs).max() / max(1.0, np.abs(theirs).max()))
            if own is not None:
                wanted, seen = (_gradient(each, torch.from_numpy(pixels)) for each in (own, twin))
                found["gradient"] = float((seen - wanted).abs().max() / wanted.abs().max())
    except Exception as error:  # a converter may raise anything, which is what is asked here
        return {"error": f"{type(error).__name__}: {' '.join(str(error).split())[:100]}"}
    return found


def _gradient(net: nn.Module, pixels: Tensor) -> Tensor:
    given = pixels.clone().requires_grad_()
    return torch.autograd.grad(net(given).amax(1).sum(), given)[0]


def _files(names: Sequence[str], opsets: Sequence[int], folder: Path) -> Iterator[tuple[str, int, nn.Module, Path]]:
    for name in names:
        for opset in opsets:
            torch.manual_seed(0)
            net = ZOO[name]().eval()
            yield name, opset, net, exported(net, folder / f"{name}-{opset}.onnx", opset)


def _line(row: dict[str, Any], converters: dict[str, Converter]) -> str:
    cells = [row["net"], str(row["opset"]), row["form"]]
    for each in converters:
        held = row[each]
        told = [f"{max(held['together'], held['alone']):.1e}"] if "error" not in held else [held["error"]]
        told += [f"{held['gradient']:.1e}"] if "gradient" in held else ["–"]
        cells += told
    return f"| {' | '.join(cells)} |"


if __name__ == "__main__":
    sys.exit(main())
