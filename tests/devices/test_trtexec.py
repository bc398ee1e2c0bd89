from pathlib import Path

import pytest

from robustdeploy.devices.trtexec import Timing, read_times, trtexec_command
from robustdeploy.errors import ArtifactError, UsageError

NAMES = Path(__file__).parents[1] / "onboard" / "backends" / "names"
# What `exportJSONTrace` of samples/common/sampleReporting.cpp writes, in 10.3 and in 11.1 alike.
WRITTEN = """[
  { "startEnqMs" : 201.1, "endEnqMs" : 201.2, "startH2dMs" : 201.1, "endH2dMs" : 201.11, "startComputeMs" : 201.12, \
"endComputeMs" : 201.62, "startD2hMs" : 201.63, "endD2hMs" : 201.64, "h2dMs" : 0.01, "computeMs" : 0.5, \
"d2hMs" : 0.01, "latencyMs" : 0.52 }
, { "startEnqMs" : 202.1, "endEnqMs" : 202.2, "startH2dMs" : 202.1, "endH2dMs" : 202.11, "startComputeMs" : 202.12, \
"endComputeMs" : 202.72, "startD2hMs" : 202.73, "endD2hMs" : 202.74, "h2dMs" : 0.01, "computeMs" : 0.6, \
"d2hMs" : 0.01, "latencyMs" : 0.62 }
]
"""


def options(version):
    """Options that trtexec of a version reads, as its source tells."""
    return set((NAMES / f"trtexec-{version}.txt").read_text().split())


@pytest.mark.parametrize("timing", [Timing(), Timing(transfers=False, spin_wait=True, cuda_graph=True)])
@pytest.mark.parametrize(("version", "source"), [("10.3.0.26", "10.3"), ("11.1.0", "11.1"), ("11.4.1.7", "11.1")])
def test_each_version_is_given_only_options_that_it_knows(version, source, timing):
    program, *words = trtexec_command(version, "engine.plan", (3, 32, 32), "times.json", timing=timing)
    assert program == "trtexec"
    assert {word.partition("=")[0] for word in words} <= options(source)


def test_the_same_is_timed_whatever_the_version_does_by_default():
    def switches(version, **timing):
        words = trtexec_command(version, "e", (1, 8, 8), "t", timing=Timing(**timing))
        return {word for word in words if word.startswith("--") and "=" not in word}

    assert switches("10.3") == set()
    assert switches("11.4") == {"--includeDataTransfers", "--noSpinWait", "--noCudaGraph"}
    bare = {"transfers": False, "spin_wait": True, "cuda_graph": True}
    assert switches("10.16", **bare) == {"--noDataTransfers", "--useSpinWait", "--useCudaGraph"}
    assert switches("11.0", **bare) == set()


def test_the_whole_command():
    words = trtexec_command("10.3.0", "engine.plan", (3, 32, 32), "times.json", 4, Timing(seconds=3, runs=50))
    assert words[1:6] == (
        "--loadEngine=engine.plan",
        "--shapes=images:4x3x32x32",
        "--warmUp=200",
        "--duration=3",
        "--iterations=50",
    )
    assert words[-1] == "--exportTimes=times.json"


@pytest.mark.parametrize("version", ["8.6.1", "10.2", "12.0", "newest", ""])
def test_a_version_whose_options_are_not_known_is_refused(version):
    with pytest.raises(UsageError, match=r"trtexec .* is not known|not a version"):
        trtexec_command(version, "e", (3, 8, 8), "t")


@pytest.mark.parametrize(("shape", "batch"), [((3, 0, 8), 1), ((3, 8, 8), 0)])
def test_images_that_cannot_be_are_refused(shape, batch):
    with pytest.raises(UsageError, match="there are no"):
        trtexec_command("11.4", "e", shape, "t", batch)


def test_the_times_of_each_run_are_read():
    times = read_times(WRITTEN)
    assert times.latency_ms == (0.52, 0.62)
    assert times.compute_ms == (0.5, 0.6)


@pytest.mark.parametrize(
    "text", ["", "[]", "{}", "[1]", '[{"latencyMs": 1}]', '[{"latencyMs": NaN, "computeMs": 1}]', WRITTEN[:200]]
)
def test_what_is_no_list_of_times_is_refused(text):
    with pytest.raises(ArtifactError, match="trtexec"):
        read_times(text)
