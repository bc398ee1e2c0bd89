from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch.nn import functional as F

from robustdeploy.train.loop import fit
from robustdeploy.train.precision import has_native_bf16, resolved
from robustdeploy.train.tasks.standard import Standard

CPU, CUDA = torch.device("cpu"), torch.device("cuda")
CPUINFO = Path("/proc/cpuinfo")


@pytest.fixture
def cpu_with(monkeypatch):
    def fake(**features):
        monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: features)

    return fake


@pytest.mark.parametrize("feature", ["avx512_bf16", "amx_bf16", "bf16"])
def test_auto_is_bfloat16_where_the_cpu_has_it(feature, cpu_with):
    cpu_with(avx2=True, **{feature: True})
    assert resolved("auto", CPU) == torch.bfloat16


@pytest.mark.parametrize(
    "features", [{}, {"avx2": True, "avx512_f": True}, {"avx2": True, "avx512_bf16": False, "amx_bf16": False}]
)
def test_auto_is_float32_where_bfloat16_would_be_emulated(features, cpu_with):
    cpu_with(**features)
    assert resolved("auto", CPU) == torch.float32


@pytest.mark.skipif(not CPUINFO.exists(), reason="needs Linux's /proc/cpuinfo to know the CPU by another way")
def test_auto_on_this_cpu_is_what_the_kernel_says():
    flags = set(CPUINFO.read_text().split())
    native = bool(flags & {"avx512_bf16", "amx_bf16", "bf16"})  # as Linux names them on x86 and on Arm
    assert has_native_bf16(CPU) == native
    assert resolved("auto", CPU) == (torch.bfloat16 if native else torch.float32)


@pytest.mark.parametrize(("capability", "expected"), [((7, 5), False), ((8, 0), True), ((8, 6), True), ((9, 0), True)])
def test_gpus_have_it_since_ampere(capability, expected, monkeypatch):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    assert has_native_bf16(CUDA) is expected
    assert resolved("auto", CUDA) == (torch.bfloat16 if expected else torch.float32)


def test_auto_is_float32_on_any_other_device():
    assert resolved("auto", torch.device("meta")) == torch.float32


@pytest.mark.parametrize("features", [{}, {"amx_bf16": True}])
def test_what_is_said_outright_holds_everywhere(features, cpu_with):
    cpu_with(**features)
    assert resolved("fp32", CPU) == torch.float32
    assert resolved("bf16", CPU) == torch.bfloat16


@pytest.mark.parametrize(
    ("precision", "features", "expected"),
    [
        ("bf16", {}, torch.bfloat16),
        ("fp32", {"amx_bf16": True}, torch.float32),
        ("auto", {"avx512_bf16": True}, torch.bfloat16),
        ("auto", {"avx2": True}, torch.float32),
    ],
)
def test_the_training_passes_run_in_it_and_the_weights_stay_in_float32(
    precision, features, expected, cpu_with, make_net, make_plan, tmp_path
):
    cpu_with(**features)
    found = []

    class Spy(Standard):
        def __call__(self, net, images, labels, threat, noise):
            scores = net(images)
            found.append(scores.dtype)
            return {"loss": F.cross_entropy(scores.float(), labels)}

    plan = make_plan(epochs=1, steps=2, task=Spy(), options={"precision": precision})
    trained = fit(make_net(), None, plan, tmp_path, lambda step, steps, numbers: None)
    assert found[:2] == [expected] * 2
    assert set(found[2:]) == {torch.float32}  # settling the statistics
    format_of_all_steps = {"from_step": 0, "precision": str(expected).removeprefix("torch."), "processes": 1}
    assert trained.conditions == [format_of_all_steps]
    assert {value.dtype for value in trained.net.parameters()} == {torch.float32}
