"""Turn an ONNX file of others into a stored net: adapter, proof against the file itself, and a twin in torch."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from onnx import TensorProto

from robustdeploy.core.factories import ONNX_FILE
from robustdeploy.core.plain import in_words
from robustdeploy.core.reading import read_bounded
from robustdeploy.core.recipe import Choice, Recipe
from robustdeploy.core.registry import PRECISIONS
from robustdeploy.cost.onnx_graph import model_from
from robustdeploy.data.load import Loaded
from robustdeploy.errors import ArtifactError
from robustdeploy.export.exporting import attacked
from robustdeploy.export.onnx_file import MOST_BYTES
from robustdeploy.imports.adapter import SCORES, Entry, Exit, adapted, is_deployable
from robustdeploy.imports.asked import Asked, check_said_once, places_of
from robustdeploy.imports.front import Front
from robustdeploy.imports.inspected import (
    WHOLE,
    Answer,
    Input,
    fitting,
    foreign_domains,
    input_of,
    layout_of,
    scores_of,
    unread_inputs,
    values_of,
)
from robustdeploy.imports.noticing import notice, readings
from robustdeploy.nets.graph import GivenFile, answers_of, computes_in, graph_net, runtime_words, session_of
from robustdeploy.nets.preprocess.steps import prepared_statistics
from robustdeploy.nets.store import NetInfo, save_graph
from robustdeploy.onboard.criterion import CLASSIFICATION
from robustdeploy.onboard.types import Bytes, Labels, Pixels, Scores, pixels_from_bytes
from robustdeploy.train.facts import HELD_OUT

TOLERANCE = 1e-5
"""Of the adapted graph's scores against the file's own, relative to the largest score."""
_TWIN_TOLERANCE = 1e-3
"""Of the twin's scores against ONNX Runtime's in float32, as a share of their span."""
_TOLD = {"logits": "raw scores", "probabilities": "probabilities", "labels": "labels alone"}


@dataclass(frozen=True)
class _Opened:
    """A file that was read, and what it is asked on."""

    path: Path
    content: bytes
    model: onnx.ModelProto
    """Without inputs that nothing reads."""
    session: Any
    unread: tuple[str, ...]


def import_onnx(
    path: Path, asked: Asked, recipe: Recipe, data: Loaded, folder: Path
) -> tuple[NetInfo, tuple[str, ...]]:
    """Write the net in the ONNX file ``path`` into ``folder``; return what it is, and what was found, in sentences.

    The images of ``data`` that prove it are held-out ones. What cannot be a classifier of them is an ArtifactError.
    """
    opened = _opened(path)
    given, front = input_of(opened.model), Front(recipe.preprocess, data.image_shape)
    layout, how = layout_of(opened.model, given, asked, front.shape)
    entry, why, sure = entry_of(opened.model, given, layout, asked, front)
    answer, which = scores_of(opened.model, asked.output, len(asked.labels or data.classes))
    images, labels = data.validation.images[:HELD_OUT].numpy(), data.validation.labels[:HELD_OUT].numpy()
    read = front.read(images)
    raw, rank = _own_answers(opened, entry, answer.name, read)
    names = asked.labels or answer.labels or None
    leave, mapped = _exit_of(answer, raw, rank, names, asked.labels is not None, data)
    if is_deployable(opened.model, entry, leave) and not recipe.preprocess and not opened.unread:
        content = opened.content
    else:
        whole = front.before(adapted(opened.model, entry, leave, answer.name, len(data.classes)))
        content = whole.SerializeToString(deterministic=True)
    gap = _proved(content, images, leave.left(raw), opened)
    # Where only one order of channels, rows and columns fits, it is no guess.
    sure = sure and (asked.layout is not None or len(fitting(given, front.shape)) == 1)
    odd = _noticed(opened, entry, leave, (read, labels), front, data, sure)
    kind = "labels" if leave.whole else _kind_of(leave.left(raw))
    halves = any(tensor.data_type == TensorProto.FLOAT16 for tensor in opened.model.graph.initializer)
    said = GivenFile(
        name=path.name,
        sha256=_sha256(opened.content),
        unchanged=content == opened.content,
        input=given.name,
        output=answer.name,
        layout=layout,
        values=_values_text(entry),
        computes_in=computes_in(opened.model.graph.node, halves),
        scores=kind,
    )
    shape, classes = data.image_shape, data.classes
    said = said.model_copy(update={"twin_problem": _twin_problem(content, said, recipe, images, labels, shape[0])})
    choice = Choice(name=ONNX_FILE, options={"file": path.name, "sha256": _sha256(content)})
    zeros, ones = (0.0,) * shape[0], (1.0,) * shape[0]
    steps = recipe.preprocess
    info = NetInfo(net=choice, classes=classes, image_shape=shape, preprocess=steps, mean=zeros, std=ones, graph=said)
    found = _found(said, given, gap, len(images))
    guessed = (f"guessed {each}" for each in (how, why, which, mapped) if each)
    stands = (f"in front of it stands {in_words(each)}" for each in steps)
    without = [f"nothing in it reads {', '.join(opened.unread)}, which is left out"] if opened.unread else []
    return save_graph(folder, content, info), (*guessed, *found, *without, *stands, *([odd] if odd else []))


def _noticed(
    opened: _Opened,
    entry: Entry,
    leave: Exit,
    held_out: tuple[Pixels, Labels],
    front: Front,
    data: Loaded,
    sure: bool,
) -> str:
    """Say whether the file seems to read images otherwise than ``entry`` has it, and what fits."""
    read, labels = held_out

    def label(other: Entry) -> Labels:
        raw, _ = _own_answers(opened, other, leave.answer, read)
        found: Labels = CLASSIFICATION.predictions(leave.left(raw))
        return found

    others = {}
    usual = prepared_statistics(front.steps, front.camera, data.mean, data.std)
    for option, (values, pair) in readings(usual, front.shape[0]).items():
        # Whole numbers are pixels of 8 bits, whichever range was meant, and a step that normalises has said it.
        if entry.given.element in WHOLE or front.module.normalise:
            continue
        low, high = values or (0.0, 1.0)
        mean, std = pair or (None, None)
        others[option] = partial(label, replace(entry, scale=(high - low,), shift=(low,), mean=mean, std=std))
    for layout in fitting(entry.given, front.shape):
        others[f"--layout {layout}"] = partial(label, replace(entry, layout=layout))
    found = label(entry)
    return notice(found, labels[: len(found)], others, data.classes, sure)


def entry_of(model: onnx.ModelProto, given: Input, layout: str, asked: Asked, front: Front) -> tuple[Entry, str, bool]:
    """Return how images enter, how that was found, and whether anything in the file or the command says so."""
    shape = front.shape
    if front.module.normalise:
        check_said_once(asked)
        return Entry(given, shape, layout, (1.0,), (0.0,)), "", True
    if asked.mean is not None and asked.std is not None:
        for option, values in (("--mean", asked.mean), ("--std", asked.std)):
            if len(values) not in (1, shape[0]):
                raise ArtifactError(f"{option} has {len(values)} numbers, and images have {shape[0]} channels")
        return Entry(given, shape, layout, (1.0,), (0.0,), asked.mean, asked.std), "", True
    (low, high), why, sure = (asked.values, "", True) if asked.values else values_of(model, given)
    return Entry(given, shape, layout, (high - low,), (low,)), why, sure


def _opened(path: Path) -> _Opened:
    if path.is_dir():
        raise ArtifactError(f"{path} is a folder; name the ONNX file in it")
    content = read_bounded(path, MOST_BYTES)
    if not content:
        raise ArtifactError(f"{path} is empty; export the net again")
    model = model_from(content, path)
    unread, asked = unread_inputs(model), content
    if unread:
        kept = [value for value in model.graph.input if value.name not in unread]
        del model.graph.input[:]
        model.graph.input.extend(kept)
        asked = model.SerializeToString()
    try:
        return _Opened(path, content, model, session_of(asked), unread)
    except ArtifactError as problem:
        foreign = foreign_domains(model)
        fix = f"without the operators of {', '.join(foreign)}" if foreign else "for ONNX Runtime"
        raise ArtifactError(f"{path}: {problem}; export it again {fix}") from problem


def _own_answers(opened: _Opened, entry: Entry, answer: str, read: Pixels) -> tuple[Any, int]:
    """Return what the file itself answers to pixels, one row for each image, and the rank of an answer.

    It is asked in batches of its own size, through numpy and not through the adapter.
    """
    entered = entry.entered(read)
    outputs = [value.name for value in opened.model.graph.output]
    session = opened.session
    if answer not in outputs:
        # What stands before a ZipMap is no output of the file, and is made one in a copy.
        shown = onnx.ModelProto()
        shown.CopyFrom(opened.model)
        shown.graph.output.append(onnx.ValueInfoProto(name=answer))
        session = session_of(shown.SerializeToString())
    size = entry.given.batch or 1
    if size > len(entered):
        raise ArtifactError(f"{opened.path} takes batches of {size} alone; export it with a free batch")
    batches = [entered[at : at + size] for at in range(0, len(entered) // size * size, size)]
    try:
        answers = [np.asarray(session.run([answer], {entry.given.name: batch})[0]) for batch in batches]
    except Exception as error:  # the runtime's own exceptions share no base class but Exception
        raise ArtifactError(
            f"{opened.path} cannot score images of {entry.shape} as {entry.layout}: {runtime_words(error)}. Name its "
            "order with --layout, or export it with a free batch"
        ) from error
    if any(each.size % size or not each.size for each in answers):
        raise ArtifactError(f"its output '{answer}' gives {answers[0].shape} for {size} images, which are no scores")
    return np.concatenate([each.reshape(size, -1) for each in answers]), answers[0].ndim


def _exit_of(found: Answer, raw: Any, rank: int, labels: Any, told: bool, data: Loaded) -> tuple[Exit, str]:
    """Return how the answer becomes scores, and how that was found."""
    answer, classes, count = found.name, data.classes, raw.shape[1]
    others = f", or name another output with --output: {', '.join(found.others)}" if found.others else ""
    whole = raw.dtype.kind in "iu"
    kinds = {"e": TensorProto.FLOAT16, "d": TensorProto.DOUBLE}
    element = kinds.get(raw.dtype.char, TensorProto.FLOAT)
    if whole and count != 1:
        raise ArtifactError(f"its output '{answer}' gives {count} whole numbers for an image; labels are one{others}")
    if not whole and count == 1:
        raise ArtifactError(
            f"its output '{answer}' gives one number for an image, and the data has {len(classes)} classes; export it "
            f"with a score for each (of two classes: p and 1 - p){others}"
        )
    told_apart = len(labels) if labels is not None else len(classes) if whole else count
    if not whole and labels is not None and len(labels) != count:
        if told:
            raise ArtifactError(f"--labels names {len(labels)} outputs, and the file gives {count} scores")
        labels = None
    if not told and labels is not None and not all(label in classes for label in labels):
        labels = None
    if labels is None and not whole and count != len(classes):
        raise ArtifactError(
            f"its output '{answer}' gives {count} scores, and the data has {len(classes)} classes "
            f"({', '.join(classes[:3])}, …); say with --labels FILE which class each is, one a line ('-' for none)"
            f"{others}"
        )
    places = places_of(labels, classes) if labels is not None else tuple(range(len(classes)))
    if whole and raw.size and not 0 <= int(raw.min()) <= int(raw.max()) < told_apart:
        raise ArtifactError(
            f"its output '{answer}' gives labels from {raw.min()} to {raw.max()}, and there are {told_apart} classes; "
            "say with --labels FILE which class each number is"
        )
    same = places == tuple(range(told_apart))
    why = "" if told or labels is None or same else f"labels: the file names its classes {', '.join(labels[:3])}, …"
    return Exit(answer, whole, element, rank == 2, told_apart, () if same else places), why


def _proved(content: bytes, images: Bytes, own: Scores, opened: _Opened) -> float:
    """Return how far the deployed graph's scores are from the file's own; ArtifactError where that is another net."""
    session, pixels = session_of(content), pixels_from_bytes(images)[: len(own)]
    try:
        alone = np.concatenate([session.run([SCORES], {"images": pixels[at : at + 1]})[0] for at in range(len(pixels))])
        together = session.run([SCORES], {"images": pixels})[0]
    except Exception as error:  # the runtime's own exceptions share no base class but Exception
        raise ArtifactError(
            f"{opened.path} works only on batches of the size that it was exported with, and boards are given one "
            "image and several; export it with a free batch (dynamic_shapes, or dynamic_axes). ONNX Runtime: "
            f"{runtime_words(error)}"
        ) from error
    for how, found in (("one by one", alone), ("at once", together)):
        if found.shape != own.shape:
            raise ArtifactError(
                f"{opened.path} gives scores of {found.shape} for {len(own)} images {how}, and {own.shape} are one row "
                "for each image; export it with a free batch in the first place (dynamic_shapes, or dynamic_axes)"
            )
    if not np.isfinite(own).all():
        raise ArtifactError(f"{opened.path} gives scores that are not finite (NaN or infinity) for held-out images")
    gap, scale = float(np.abs(alone - own).max()), max(1.0, float(np.abs(own).max()))
    if np.abs(session.run([SCORES], {"images": pixels})[0] - together).max() > TOLERANCE * scale:
        raise ArtifactError(
            f"{opened.path} gives other scores when it is asked again: noise or dropout was left in it; export it in "
            "eval mode"
        )
    exact = not _is_rounded(opened.model)
    # What rounds inside may round an image at a step's edge the other way, whichever way it entered.
    moved = float((CLASSIFICATION.predictions(alone) != CLASSIFICATION.predictions(own)).mean())
    if (exact and gap > TOLERANCE * scale) or moved > 0.01:
        raise ArtifactError(
            f"{opened.path}: between its adapter the graph gives scores up to {gap:.2g} from the file's own, and "
            f"{moved:.1%} of {len(own)} labels differ; export it with a free batch"
        )
    if (apart := float((CLASSIFICATION.predictions(together) != CLASSIFICATION.predictions(alone)).mean())) > 0.01:
        raise ArtifactError(
            f"{opened.path} labels {apart:.1%} of {len(own)} images otherwise beside others than alone; export it with "
            "a free batch, in eval mode"
        )
    return gap


def _is_rounded(model: onnx.ModelProto) -> bool:
    halves = any(tensor.data_type == TensorProto.FLOAT16 for tensor in model.graph.initializer)
    return computes_in(model.graph.node, halves) != "fp32"


def _kind_of(scores: Scores) -> str:
    probabilities = bool((scores >= 0).all()) and float(np.abs(scores.sum(1) - 1).max()) < 1e-3
    return "probabilities" if probabilities else "logits"


def _twin_problem(content: bytes, said: GivenFile, recipe: Recipe, images: Bytes, labels: Labels, channels: int) -> str:
    """Say why no twin in torch tells of the file, on held-out images, clean and attacked; nothing where one does."""
    if said.scores == "labels":
        return "it answers labels alone, which have no gradient"
    session = session_of(content)
    try:
        net = graph_net(content, said, channels)
        sets = {"clean": images, "attacked": attacked(net, images, labels, recipe.threat)}
        for name, each in sets.items():
            pixels = pixels_from_bytes(each)
            parts = np.split(pixels, len(pixels))
            theirs = np.concatenate([session.run([SCORES], {"images": part})[0] for part in parts])
            with torch.no_grad():
                ours = answers_of(net)(torch.from_numpy(pixels)).float().numpy()
            if problem := _differs(name, ours, theirs, said.computes_in):
                return problem
    except Exception as error:  # whatever a graph of others makes torch raise, it has no twin then
        return " ".join(str(error).split())[:300] or type(error).__name__
    return ""


def _differs(name: str, ours: Scores, theirs: Scores, kind: str) -> str:
    least = PRECISIONS.get(kind).LIMITS.twin
    alike = float((CLASSIFICATION.predictions(ours) == CLASSIFICATION.predictions(theirs)).mean())
    if alike < least:
        return f"it labels {alike:.1%} of {len(ours)} {name} images as ONNX Runtime does, and {least:.0%} are asked for"
    gap, span = float(np.abs(ours - theirs).max()), float(np.ptp(theirs))
    if kind == "fp32" and not gap <= _TWIN_TOLERANCE * max(span, 1e-6):
        return f"its scores of {name} images are up to {gap:.2g} from ONNX Runtime's, where they span {span:.2g}"
    return ""


def _values_text(entry: Entry) -> str:
    if entry.mean is not None and entry.std is not None:
        return f"(x - {_listed(entry.mean)}) / {_listed(entry.std)}"
    low = entry.shift[0]
    return f"{low:g}..{low + entry.scale[0]:g}"


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _listed(values: tuple[float, ...]) -> str:
    return ", ".join(f"{value:g}" for value in values)


def _found(said: GivenFile, given: Input, gap: float, n: int) -> Iterator[str]:
    """Say what was found and what that means."""
    if said.unchanged:
        yield f"{said.name} is deployed as it is"
    else:
        batch = f", and its batch of {given.batch} is made free" if given.batch is not None else ""
        yield (
            f"the graph of {said.name} is deployed between nodes that adapt images and scores{batch}; scores are "
            f"within {gap:.1e} of the file's own on {n} held-out images"
        )
    if said.computes_in != "fp32":
        yield f"it computes in {said.computes_in}; subjects call it fp32, which here means: as it was given"
    if said.scores != "logits":
        follow = "; gradients are followed on what goes into its softmax" if not said.twin_problem else ""
        yield f"its scores are {_TOLD[said.scores]}{follow if said.scores == 'probabilities' else ''}"
    if said.twin_problem:
        yield (
            f"no gradient of it can be followed in torch: {said.twin_problem}; only query attacks are run, and rules "
            "on robust accuracy are INCONCLUSIVE"
        )
