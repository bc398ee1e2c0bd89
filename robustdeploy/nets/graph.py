"""A net that is an ONNX file: its torch twin where gradients can be followed, else ONNX Runtime's answers alone."""

from __future__ import annotations

import re
from collections.abc import Iterable
from contextlib import suppress
from typing import Annotated, Any

import numpy as np
import onnx
import torch
from onnx import version_converter
from pydantic import Field
from torch import Tensor, nn

from robustdeploy.core.model import Noun
from robustdeploy.errors import ArtifactError
from robustdeploy.nets.normalised import Normalised
from robustdeploy.nets.twin import ROUNDING, Twin, opset_of

TENSOR = "onnx"
"""The one tensor in the weights of such a net: the bytes of the file that is deployed."""
OURS = "robustdeploy/"
"""Before the names of what an adapter puts around the graph of others."""
_PASSED = ("Identity", "Cast", "Flatten", "Reshape", "Squeeze", "Unsqueeze", "Gather", *ROUNDING)
"""What may stand between a softmax and the scores; none of it changes which score is the highest."""
_PROBABILITIES = ("Softmax", "Sigmoid")
_LEAST_OPSET = 11
"""From here on operators have their torch forms."""
_PLACE = re.compile(r"\[ONNXRuntimeError\] : \d+ : \w+ : |\S+\.(?:cc|h|cpp):\d+ [^()]*(?:\([^()]*\))? ")
"""In ONNX Runtime's errors: the code, and the function that found it."""


class GivenFile(Noun):
    """What is known of an ONNX file that others made, beside its bytes."""

    name: str
    sha256: Annotated[str, Field(pattern="[0-9a-f]{64}")]
    """Of the file as it was given."""
    unchanged: bool
    """Whether that very file is deployed; otherwise its graph stands between nodes that adapt images and scores."""
    input: str
    output: str
    layout: str
    """In which order it reads an image."""
    values: str
    """Which numbers it reads for pixels from black to white."""
    computes_in: str
    """``fp32``, ``fp16`` or ``int8``."""
    scores: str
    """``logits``, ``probabilities`` or ``labels``."""
    twin_problem: str = ""
    """Why no gradient of the file can be followed in torch; empty where one can."""


class GraphNet(nn.Module):
    """Map pixels in [0, 1], N×C×H×W, to scores, N×classes, as an ONNX file does.

    Where the file ends in a softmax, these are what goes into it: its gradient does not saturate, and labels are the
    same. `answered` gives what the file itself answers.
    """

    def __init__(self, content: bytes, given: GivenFile) -> None:
        super().__init__()
        self.content, self.given = content, given
        self.whole: Twin | _Runtime = _Runtime(content) if given.twin_problem else twin_of(content)
        self.unsaturated = self.whole.without(_PROBABILITIES, _PASSED) if isinstance(self.whole, Twin) else None

    @property
    def followable(self) -> bool:
        """Whether there are gradients to follow."""
        return not self.given.twin_problem

    def forward(self, images: Tensor) -> Tensor:
        """Return the scores that attacks follow."""
        scores: Tensor = (self.unsaturated or self.whole)(images)
        return scores

    def answered(self, images: Tensor) -> Tensor:
        """Return what the file answers."""
        scores: Tensor = self.whole(images)
        return scores


def graph_net(content: bytes, given: GivenFile, channels: int) -> Normalised:
    """Return the net of a deployed file; it normalises by itself. ArtifactError where it cannot be read."""
    return Normalised(GraphNet(content, given), [0.0] * channels, [1.0] * channels).eval()


def graph_of(net: nn.Module) -> GraphNet | None:
    """Return the ONNX file that a loaded net is; None for a net of torch."""
    inside = net.net if isinstance(net, Normalised) else net
    return inside if isinstance(inside, GraphNet) else None


def answers_of(net: nn.Module) -> Any:
    """Return what maps images to what a net's exported file must answer: the net itself, or a file's own answers."""
    graph = graph_of(net)
    return net if graph is None else graph.answered


def twin_of(content: bytes) -> Twin:
    """Return the torch twin of a file; ArtifactError where there is none."""
    model = onnx.load_model_from_string(content)
    if opset_of(model) < _LEAST_OPSET:
        with suppress(Exception):  # what cannot be converted is tried as it is
            model = version_converter.convert_version(model, _LEAST_OPSET)
    return Twin(model).eval()


class _Runtime(nn.Module):
    """ONNX Runtime's answers as a torch module that has no gradient."""

    def __init__(self, content: bytes) -> None:
        super().__init__()
        self._content, self._session = content, session_of(content)

    def forward(self, images: Tensor) -> Tensor:
        given = {"images": images.detach().to("cpu", torch.float32).numpy()}
        return torch.from_numpy(np.asarray(self._session.run(["scores"], given)[0])).to(images.device)

    def __deepcopy__(self, memo: Any) -> _Runtime:
        # A session cannot be copied, and has no weights that a copy could change.
        return self


def session_of(content: bytes) -> Any:
    """Return ONNX Runtime's session of a file's bytes; ArtifactError with its words where it refuses."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = torch.get_num_threads(), 1
    options.log_severity_level = 4  # errors are raised, too
    try:
        return onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # the runtime's own exceptions share no base class but Exception
        words = runtime_words(error)
    raise ArtifactError(f"ONNX Runtime {onnxruntime.__version__} cannot load this file: {words}")


def runtime_words(error: Exception) -> str:
    """Return what ONNX Runtime says, without its codes and places in its source."""
    return _PLACE.sub("", " ".join(str(error).split()))[:300]


def computes_in(nodes: Iterable[onnx.NodeProto], halves: bool) -> str:
    """Name what a graph computes in."""
    whole = any("Integer" in node.op_type or "QLinear" in node.op_type or "Quantize" in node.op_type for node in nodes)
    return "int8" if whole else "fp16" if halves else "fp32"
