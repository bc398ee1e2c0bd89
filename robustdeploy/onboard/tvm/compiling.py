"""Compiling: from an ONNX file to a library for one processor."""

from __future__ import annotations

import errno
import shutil
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ...errors import ArtifactError, ToolchainError
from ..antialiasing import left_out
from ..store import sha256_of
from .folding import sizes_of
from .gpu import gpu_target, note_on
from .graph import Pad, prepared
from .installed import onnx_package
from .layout import channels_last
from .operators import legalizations
from .running import LIBRARY, About, here, machine_of, words_of
from .schedule import is_scheduled, scheduled
from .tuning import DATABASE, Tuning, search, with_known
from .vectors import Vectors

_FLOAT = 1  # ONNX's number for float32
_COMPILERS = ("cc", "gcc", "clang")
_FLOATING_NOTE = "its int8 layers (Q/DQ) are computed in float32: the scores are int8's and the time is not"


@dataclass(frozen=True)
class Processor:
    """What code is made for. Empty strings stand for this machine's own."""

    triple: str = ""
    cpu: str = ""
    cc: str = ""
    """The C compiler that links the library."""

    @property
    def machine(self) -> str:
        """Its architecture."""
        return machine_of(self.triple) if self.triple else here()

    @property
    def native(self) -> bool:
        """Whether it is this machine's architecture."""
        return self.machine == here()


@dataclass(frozen=True)
class Wanted:
    """What an engine is to be."""

    processor: Processor
    pad: Pad
    tuning: Tuning
    runtime: str
    """Where the runtime library lies, if not where it is looked for."""
    gpu: str = ""
    """TVM's name of a board whose GPU it is for."""


def compile_engine(tvm: Any, version: str, onnx: Path, engine: Path, wanted: Wanted) -> About:
    """Compile ``onnx`` into the folder ``engine``; whatever the graph is to blame for is an ArtifactError."""
    if wanted.gpu:
        return _compile_for_gpu(tvm, version, onnx, engine, wanted)
    processor = wanted.processor
    cc = linker(processor)
    target = target_for(tvm, processor)
    model = read_graph(onnx)
    image = image_shape(model, onnx.name)
    try:
        vectors = vectors_of(tvm, target, processor.machine)
        module = imported(tvm, prepared(model, vectors, wanted.pad), image)
        classes = _classes(module, onnx.name)
        module = fused(tvm, module, target, vectors)
        notes = [*_tuned(wanted, onnx, engine)]
        if (engine / DATABASE[1]).is_file():
            module = with_known(tvm, module, target, engine)
        module = scheduled(tvm, module, vectors)
        scheduled_here, left = counted(tvm, module)
        executable = tvm.compile(module, target=target)
    except (ArtifactError, ToolchainError, MemoryError):
        raise
    except Exception as error:  # TVM raises whatever Python has
        raise ArtifactError(f"TVM {version} cannot compile {onnx.name}: {words_of(error)}") from None
    library = engine / LIBRARY
    _link(executable, library, cc)
    if any(node.op_type == "QuantizeLinear" for node in model.graph.node):
        notes.append(_FLOATING_NOTE)
    told = f"{target.attrs['mtriple']} {target.attrs['mcpu']}"
    return About(
        version, processor.machine, image, classes, sha256_of(library), told, scheduled_here, left, "", tuple(notes)
    )


def _compile_for_gpu(tvm: Any, version: str, onnx: Path, engine: Path, wanted: Wanted) -> About:
    """Compile for the GPU of a board by TVM's own schedules; nothing of it can run here."""
    target = gpu_target(tvm, wanted.gpu)
    triple = str(target.host.attrs["mtriple"])
    cc = linker(Processor(triple, cc=wanted.processor.cc))
    model = read_graph(onnx)
    image = image_shape(model, onnx.name)
    try:
        ready = prepared(model, Vectors(1, 1), False)
        module = tvm.relax.frontend.onnx.from_onnx(ready, shape_dict={"images": [1, *image]})
        classes = _classes(module, onnx.name)
        executable = tvm.compile(module, target=target)
    except (ArtifactError, MemoryError):
        raise
    except Exception as error:
        raise ArtifactError(f"TVM {version} cannot compile {onnx.name} for {wanted.gpu}: {words_of(error)}") from None
    _link(executable, engine / LIBRARY, cc)
    sha256, notes = sha256_of(engine / LIBRARY), (note_on(executable, target),)
    told = f"{triple} and {target.attrs['arch']}"
    return About(version, machine_of(triple), image, classes, sha256, told, 0, 0, wanted.gpu, notes)


def linker(processor: Processor) -> str:
    """Return the C compiler that links for ``processor``; ToolchainError with the fix where none is here."""
    names = (processor.cc,) if processor.cc else _COMPILERS
    package = "gcc"
    if not (processor.cc or processor.native):
        names = (f"{processor.machine}-linux-gnu-gcc",)
        package = f"gcc-{processor.machine.replace('_', '-')}-linux-gnu"
    if found := next(filter(None, map(shutil.which, names)), None):
        return found
    raise ToolchainError(
        f"no C compiler is here that links an engine for {processor.machine} ({' or '.join(names)} was looked for); "
        f"apt-get install {package}, or set the option cc of tvm"
    )


def target_for(tvm: Any, processor: Processor) -> Any:
    """Return TVM's description of ``processor``; ToolchainError where LLVM does not know it."""
    codegen = tvm.target.codegen
    triple = processor.triple or str(codegen.llvm_get_system_triple())
    cpu = processor.cpu or (str(codegen.llvm_get_system_cpu()) if processor.native else "generic")
    try:
        known = bool(codegen.llvm_is_valid_cpu(cpu, triple))
    except Exception:  # a triple that LLVM cannot even read
        known = False
    if not known:
        raise ToolchainError(
            f"LLVM has no code for the cpu {cpu} of {triple}; correct the options triple and cpu of tvm"
        )
    return tvm.target.Target({"kind": "llvm", "mtriple": triple, "mcpu": cpu, "num-cores": 1})


def vectors_of(tvm: Any, target: Any, machine: str) -> Vectors:
    """Return the vector registers of a processor."""
    if machine == "aarch64":
        return Vectors(lanes=4, registers=32)
    if machine != "x86_64":
        return Vectors(lanes=4, registers=16)
    has = tvm.target.codegen.target_has_features
    if has("avx512f", target):
        return Vectors(lanes=16, registers=32)
    return Vectors(lanes=8 if has("avx", target) else 4, registers=16)


def imported(tvm: Any, model: Any, image: tuple[int, int, int]) -> Any:
    """Turn an ONNX graph into TVM's own, for one image, with channels last around convolutions."""
    transform = tvm.relax.transform
    module = tvm.relax.frontend.onnx.from_onnx(model, shape_dict={"images": [1, *image]})
    return transform.FoldConstant()(channels_last(tvm, transform.Normalize()(module)))


def _tuned(wanted: Wanted, onnx: Path, engine: Path) -> Iterator[str]:
    """Leave a database of schedules in ``engine`` where one is wanted; say how it came there."""
    processor, tuning = wanted.processor, wanted.tuning
    if tuning.known:
        known = Path(tuning.known)
        if missing := [name for name in DATABASE if not (known / name).is_file()]:
            raise ArtifactError(f"{tuning.known} has no {missing[0]}; name the folder of an engine that was tuned")
        for name in DATABASE:
            shutil.copyfile(known / name, engine / name)
        yield "schedules were taken from an earlier tuning"
    elif tuning.trials:
        if not processor.native:
            raise ToolchainError(
                f"tuning runs code for {processor.machine}, which cannot run here; set build_on: board"
            )
        spec = {**asdict(processor), "pad": wanted.pad, "runtime": wanted.runtime, "onnx": str(onnx)}
        yield search(tuning, spec, engine)


def fused(tvm: Any, module: Any, target: Any, vectors: Vectors) -> Any:
    """Write ``module`` as functions of loops that nobody has scheduled."""
    transform = tvm.relax.transform
    with target:
        module = transform.LegalizeOps(legalizations(tvm, vectors))(module)
        module = transform.AnnotateTIROpPattern()(module)
        module = transform.FoldConstant()(module)
        return transform.FuseTIR()(transform.FuseOps()(module))


def counted(tvm: Any, module: Any) -> tuple[int, int]:
    """Return how many functions of loops are scheduled and how many are not."""
    functions = [function for function in module.functions.values() if isinstance(function, tvm.tirx.PrimFunc)]
    done = sum(is_scheduled(function) for function in functions)
    return done, len(functions) - done


def image_shape(model: Any, name: str) -> tuple[int, int, int]:
    """Channels, height and width of the input ``images``; ArtifactError unless it is N×C×H×W float32 with N free."""
    held = {tensor.name for tensor in model.graph.initializer}
    inputs = [value for value in model.graph.input if value.name not in held]
    outputs = [value.name for value in model.graph.output]
    if [value.name for value in inputs] != ["images"] or "scores" not in outputs:
        names = f"{[value.name for value in inputs]} to {outputs}"
        raise ArtifactError(f"{name} maps {names}; a net for boards maps 'images' to 'scores'")
    tensor = inputs[0].type.tensor_type
    sizes = [size.dim_value if size.HasField("dim_value") else 0 for size in tensor.shape.dim]
    if tensor.elem_type != _FLOAT or len(sizes) != 4 or sizes[0] or min(sizes[1:]) < 1:
        found = f"type {tensor.elem_type} of shape {sizes} (0 is free)"
        raise ArtifactError(f"{name} takes {found}; it must take float32 N×C×H×W with N free")
    return sizes[1], sizes[2], sizes[3]


def read_graph(path: Path) -> Any:
    """Read an ONNX file; ArtifactError where it is none."""
    onnx = onnx_package()
    try:
        model = onnx.load_model_from_string(path.read_bytes())
    except OSError:
        raise
    except Exception as error:  # protobuf's own
        raise ArtifactError(f"{path.name} cannot be read as an ONNX file: {words_of(error)}") from None
    resized = (node for node in model.graph.node if node.op_type == "Resize")
    # TVM would leave it out without a word, and the engine would be another net.
    if any(each.name == "antialias" and each.i for node in resized for each in node.attribute):
        raise left_out("TVM", path.name)
    return model


def _classes(module: Any, name: str) -> int:
    result = module["main"].ret_ty
    sizes = sizes_of(result)
    if sizes is None or len(sizes) != 2 or sizes[0] != 1 or str(result.dtype) != "float32":
        raise ArtifactError(f"{name} gives {result}; it must give one row of float32 scores for each image")
    return sizes[1]


def _link(executable: Any, library: Path, cc: str) -> None:
    try:
        executable.export_library(str(library), cc=cc)
    except RuntimeError as error:
        if "No space left" in str(error):
            raise OSError(errno.ENOSPC, "no space left on device", str(library)) from None
        raise ToolchainError(f"{cc} cannot link the engine: {words_of(error)}") from None
