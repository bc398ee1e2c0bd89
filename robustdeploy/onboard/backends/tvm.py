"""TVM: code for one core of a CPU by a schedule of our own; an engine needs no more than the small runtime library."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal

import numpy as np

from ...errors import ArtifactError, ToolchainError
from ..sensors import read_sensors
from ..tvm.compiling import Processor, Wanted, compile_engine
from ..tvm.gpu import opened_on_gpu
from ..tvm.installed import WHOLE_FIX, Runtime, compiler, compiles, runtime
from ..tvm.running import About, checked, here, machine_of, opened, write_about
from ..tvm.tuning import Tuning
from ..types import Model, Probe


@dataclass(frozen=True)
class Tvm:
    """TVM for one core of a CPU."""

    # Code for a processor may hold instructions that another of the same architecture lacks.
    TIED_TO: ClassVar[tuple[str, ...]] = ("machine", "code_for")
    BUILDS_ON_HOST: ClassVar[bool] = True
    CROSS_COMPILES: ClassVar[bool] = True
    triple: str = ""
    """What code is made for, such as `aarch64-linux-gnu`; empty is the machine that builds."""
    cpu: str = ""
    """The processor by LLVM's name, such as `cortex-a72`; empty is the one that builds, or any of `triple`."""
    cc: str = ""
    """The C compiler that links; empty is `cc`, or `MACHINE-linux-gnu-gcc` for another architecture."""
    gpu: str = ""
    """Experimental: a board by TVM's name, such as `nvidia/jetson-agx-orin-64gb`, whose GPU the engine runs on."""
    pad: Literal["auto"] | bool = "auto"
    """Add channels so that they fill whole vectors: where that saves vectors (`auto`), wherever it can be, or never."""
    tune_trials: int = 0
    """Schedules to try out for each function, on the machine that builds; 0 takes ours."""
    tune_limit_s: float = 600.0
    """The most that all trials may take; what was found by then is kept."""
    tuned: str = ""
    """The folder of an engine that was tuned: its schedules are taken, and none is tried out."""
    runtime: str = ""
    """Where `libtvm_runtime.so` lies on the board; empty looks into `tvm/lib` wherever Python imports from."""

    def __post_init__(self) -> None:
        if self.triple and "-" not in self.triple:
            raise ValueError(f"triple is {self.triple!r}; it must be like aarch64-linux-gnu")
        if self.pad not in ("auto", True, False):
            raise ValueError(f"pad is {self.pad!r}; it must be auto, true or false")
        if not 0 <= self.tune_trials <= 10_000 or not 1 <= self.tune_limit_s <= 3000:
            raise ValueError("tvm needs tune_trials from 0 to 10,000 and tune_limit_s from 1 to 3,000")

    def probe(self) -> Probe:
        """Say which TVM is here and what its engines are for, or what is missing and how to mend it."""
        try:
            found = runtime(self.runtime)
        except ToolchainError as error:
            return Probe(usable=False, fix=str(error))
        if self.gpu and not compiles():
            return Probe(usable=False, version=found.version, fix=f"an engine for a GPU needs all of TVM; {WHOLE_FIX}")
        details = {
            "ffi": found.ffi_version,
            "compiles": compiles(),
            "code_for": self._code_for(),
            "int8": "computed in float32",
            "batch": "images are scored one by one",
        }
        return Probe(usable=True, version=found.version, details=details)

    def compile(self, onnx: Path, engine: Path) -> None:
        """Compile ``onnx`` into a library; where it can run here, its scores for plain images must be finite."""
        tvm, found = compiler(), runtime(self.runtime)
        about = compile_engine(tvm, found.version, onnx, engine, self._wanted())
        write_about(engine, about)
        if about.machine == here() and not about.gpu and not self._finite(engine, about, found):
            for path in engine.iterdir():
                path.unlink()
            raise ArtifactError(f"{onnx.name} gives scores that are not finite for plain images")

    @contextmanager
    def open(self, engine: Path) -> Iterator[Model]:
        """Load what `compile` wrote with the runtime library alone."""
        found = runtime(self.runtime)
        about = checked(engine, found)
        with opened_on_gpu(engine, about) if about.gpu else opened(engine, about, found) as model:
            yield model

    def _finite(self, engine: Path, about: About, found: Runtime) -> bool:
        """Say whether the engine gives finite scores for plain images."""
        plain = np.stack([np.full(about.image, level, np.float32) for level in (0.0, 0.5, 1.0)])
        with opened(engine, about, found) as model:
            return bool(np.isfinite(model(plain)).all())

    def _wanted(self) -> Wanted:
        processor = Processor(self.triple, self.cpu, self.cc)
        tuning = Tuning(self.tune_trials, self.tune_limit_s, self.tuned)
        return Wanted(processor, self.pad, tuning, self.runtime, self.gpu)

    def _code_for(self) -> str:
        """Name the processor that engines are for; on a board and on a host that builds for it this is the same."""
        if self.gpu:
            return self.gpu
        if self.triple:
            return f"{machine_of(self.triple)} {self.cpu or 'any'}"
        return f"{here()} {self.cpu or read_sensors()['cpu_model'] or 'any'}"


plugin = Tvm
