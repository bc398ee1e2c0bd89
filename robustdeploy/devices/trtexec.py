"""Command lines for NVIDIA's `trtexec` and what it writes: a second opinion on a latency, from another program.

Contract-tested, not run on hardware: options and output are those of its source in TensorRT 10.3 and 11.1.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass

from packaging.version import InvalidVersion, Version

from robustdeploy.errors import ArtifactError, UsageError

_OLDEST, _NEXT = Version("10.3"), Version("12")
_FLIPPED = Version("11")
"""From here on trtexec leaves out transfers, waits actively and launches a CUDA graph unless told otherwise."""


@dataclass(frozen=True)
class Timing:
    """What is timed. The defaults are what this package times itself: copies there and back, no CUDA graph."""

    transfers: bool = True
    """Copy images to the GPU and scores back in each run."""
    spin_wait: bool = False
    """Wait actively for the GPU, which takes a core and is a little faster."""
    cuda_graph: bool = False
    """Launch all kernels at once."""
    warmup_ms: int = 200
    seconds: int = 10
    runs: int = 7000
    """At least so many, and at least for ``seconds``."""


def trtexec_command(
    version: str,
    engine: str,
    image_shape: tuple[int, int, int],
    times: str,
    batch: int = 1,
    timing: Timing | None = None,
) -> tuple[str, ...]:
    """Return the words of the command that times ``engine`` and writes every run's times to the file ``times``.

    ``version`` is that of the TensorRT that ``trtexec`` came with, as ``doctor`` tells. The same words measure other
    things in 10 and in 11, so each version has its own. UsageError for a version whose options are not known.
    """
    try:
        known = Version(version)
    except InvalidVersion:
        raise UsageError(f"'{version}' is not a version of TensorRT, such as 10.3.0") from None
    if not _OLDEST <= known < _NEXT:
        raise UsageError(f"trtexec {version} is not known: its options are those of TensorRT 10.3 to 11")
    if batch < 1 or min(image_shape) < 1:
        raise UsageError(f"there are no {batch} images of {image_shape}")
    timing = timing or Timing()
    shape = "x".join(map(str, (batch, *image_shape)))
    return (
        "trtexec",
        f"--loadEngine={engine}",
        f"--shapes=images:{shape}",
        f"--warmUp={timing.warmup_ms}",
        f"--duration={timing.seconds}",
        f"--iterations={timing.runs}",
        # One run after another, nothing between them, and no mean of several in the place of one.
        "--infStreams=1",
        "--sleepTime=0",
        "--idleTime=0",
        "--avgRuns=1",
        *_switches(known, timing),
        f"--exportTimes={times}",
    )


def _switches(version: Version, timing: Timing) -> Sequence[str]:
    """Give what differs from the version's own defaults; what asks for a default is unknown or deprecated there."""
    if version >= _FLIPPED:
        asked = {
            "--includeDataTransfers": timing.transfers,
            "--noSpinWait": not timing.spin_wait,
            "--noCudaGraph": not timing.cuda_graph,
        }
    else:
        asked = {
            "--noDataTransfers": not timing.transfers,
            "--useSpinWait": timing.spin_wait,
            "--useCudaGraph": timing.cuda_graph,
        }
    return [word for word, wanted in asked.items() if wanted]


@dataclass(frozen=True)
class Times:
    """Milliseconds of each run."""

    latency_ms: tuple[float, ...]
    """From the first copy to the last, or of the computation alone without transfers."""
    compute_ms: tuple[float, ...]


def read_times(text: str) -> Times:
    """Read the file that ``--exportTimes`` wrote; ArtifactError where it is none."""
    try:
        runs = json.loads(text)
        pairs = [(float(run["latencyMs"]), float(run["computeMs"])) for run in runs]
    except (ValueError, TypeError, KeyError, RecursionError):
        raise ArtifactError("this is no list of times that trtexec wrote with --exportTimes") from None
    if not pairs or not all(math.isfinite(value) and value >= 0 for pair in pairs for value in pair):
        raise ArtifactError(f"trtexec's list of {len(pairs)} times is empty, or holds times that cannot be")
    latency, compute = zip(*pairs, strict=True)
    return Times(latency, compute)
