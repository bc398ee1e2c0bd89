"""Run one attack over all images in fixed blocks: propose, project into the box, replay on the models, seal."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from robustdeploy.attacks.protocol import GradientAttack
from robustdeploy.attacks.substitutes.protocol import SubstituteAttack
from robustdeploy.core.archive import Arrays
from robustdeploy.core.interrupts import stop_if_interrupted
from robustdeploy.core.plain import plain
from robustdeploy.core.recipe import Choice
from robustdeploy.core.registry import ATTACKS, QUERY_ATTACKS, SUBSTITUTES
from robustdeploy.data import images as data
from robustdeploy.data.order import epoch_order
from robustdeploy.devices.board import Board
from robustdeploy.devices.fleet import Fleet
from robustdeploy.errors import ArtifactError, UsageError
from robustdeploy.evaluate.box import project, violations
from robustdeploy.evaluate.host import HostNet
from robustdeploy.evaluate.judge import judge
from robustdeploy.evaluate.outcomes import AttackOutcome, Kind, Substituted
from robustdeploy.evaluate.parts import Parts
from robustdeploy.onboard.criterion import CLASSIFICATION
from robustdeploy.onboard.draws import Draws, key
from robustdeploy.onboard.queries import MARKS
from robustdeploy.onboard.types import Bytes, Labels, Needs, QueryAttack, Threat

# A kill costs one block at most. Smaller ones would spend their time on sealing and on messages.
BLOCK = 128
"""Images per sealed part."""

Progress = Callable[[str, int, int], None]
"""Called with (what is being done, images done, all images)."""

OnBoard = Callable[[Board, "Images", int, Callable[[], None]], Arrays]
"""Does one block, which has a number, on a board; it is given what tells that the work goes on."""


@dataclass(frozen=True)
class Adversary:
    """An attack of the recipe, built, with the name of its rows."""

    choice: Choice
    kind: Kind
    label: str
    gradient: GradientAttack | None = None
    query: QueryAttack | None = None
    substitute: SubstituteAttack | None = None

    @property
    def asks(self) -> bool:
        """Whether it asks what is deployed; otherwise it follows a net in torch."""
        return self.kind != "transfer"

    @property
    def settings(self) -> Mapping[str, Any]:
        """How the attack was run, for the conditions of its rows."""
        built: Any = self.gradient or self.query or self.substitute
        options = {name: plain(value) for name, value in vars(built).items() if value is not None}
        # One that runs another attack has an option of that name.
        inner = {"runs": options.pop("attack")} if "attack" in options else {}
        needs = {"needs": self.needs} if self.needs else {}
        return {"attack": self.choice.name, **needs, **options, **inner, **getattr(built, "conditions", {})}

    @property
    def needs(self) -> Needs | None:
        """What a query attack reads of an answer; one that does not say is taken to read its scores."""
        return getattr(self.query, "NEEDS", "scores") if self.query else None

    @property
    def budget(self) -> int | None:
        """Most queries that a query attack spends on an image: its field ``queries``; None where it has none."""
        queries = getattr(self.query, "queries", None)
        # A plug-in may call anything `queries`, and True is an int in Python.
        return queries if type(queries) is int else None


def adversary_from(choice: Choice) -> Adversary:
    """Find and build the attack that a recipe names."""
    if choice.name in QUERY_ATTACKS:
        query = QUERY_ATTACKS.build(choice.name, choice.options)
        return Adversary(choice, "query", str(getattr(query, "label", choice.name)), query=query)
    if choice.name in SUBSTITUTES:
        substitute: SubstituteAttack = SUBSTITUTES.build(choice.name, choice.options)
        return Adversary(choice, "substitute", substitute.label, substitute=substitute)
    gradient = ATTACKS.build(choice.name, choice.options)
    return Adversary(choice, "transfer", gradient.label, gradient=gradient)


def adversaries_from(choices: tuple[Choice, ...]) -> tuple[Adversary, ...]:
    """Build all attacks of a recipe; two that would share a name in the report are refused."""
    built = tuple(adversary_from(choice) for choice in choices)
    labels = [adversary.label for adversary in built]
    # Rows are told apart by these labels alone, so one would overwrite the other.
    if twice := sorted({label for label in labels if labels.count(label) > 1}):
        raise UsageError(
            f"evaluate.attacks holds '{twice[0]}' twice; each attack may appear once with the same settings"
        )
    return built


@dataclass(frozen=True)
class Images:
    """The test images in use."""

    ids: Labels
    images: Bytes
    labels: Labels

    @property
    def digest(self) -> str:
        """SHA-256 of which images these are, what is on them and how they are labelled."""
        digest = hashlib.sha256()
        for part in (self.ids, self.images, self.labels):
            digest.update(part.tobytes())
        return digest.hexdigest()

    def blocks(self, size: int | None = None) -> Iterator[tuple[int, Images]]:
        """Split into numbered blocks, of ``BLOCK`` images by default, wherever a run was resumed."""
        size = size or BLOCK
        for start in range(0, len(self.ids), size):
            part = slice(start, start + size)
            yield start // size, Images(self.ids[part], self.images[part], self.labels[part])


def chosen(images: data.Images, limit: int | None) -> Images:
    """Take the first images of a fixed shuffle; in that order, the first few of them stand for all."""
    # Test sets are often sorted by class, and the first images would then be of one class. The seed is fixed, so that
    # every net meets the same images.
    order = epoch_order(0, 0, len(images))[:limit].numpy()
    return Images(images.ids.numpy()[order], images.images.numpy()[order], images.labels.numpy()[order])


@dataclass(frozen=True)
class Bench:
    """Everything an attack runs against."""

    images: Images
    threat: Threat
    seed: int
    parts: Parts
    progress: Progress
    batch: int = 1
    """Images that the board is given at a time when what was found is judged."""


@dataclass(frozen=True)
class Found:
    """What one attack found in torch, for all test images, and how the attacked net labels it."""

    images: Bytes
    predictions: Labels
    substituted: Substituted | None = None
    """Only where it was found on a net that learnt from the attacked one's labels."""

    def of(self, block: int) -> Found:
        """Return the part of one block of images."""
        part = slice(block * BLOCK, (block + 1) * BLOCK)
        return Found(self.images[part], self.predictions[part])


def found_in(arrays: Arrays, substituted: Substituted | None = None) -> Found:
    """Return what was found, out of the arrays ``images`` and ``predictions``."""
    return Found(arrays["images"], arrays["predictions"], substituted)


def attack_host(adversary: Adversary, bench: Bench, host: HostNet, before: Found | None = None) -> Found:
    """Attack a net in torch: by its gradient, or by queries where the attack asks for these.

    ``before`` is what the same attack found on another precision of it: of each image the worse one is kept, since a
    gradient that was passed through rounding may miss what the unrounded net's finds.
    """

    def one(block: Images, number: int) -> Arrays:
        # Without the block's number: noise belongs to an image, so other block sizes find the same images.
        noise_key = key(bench.seed, adversary.label)
        if adversary.gradient is not None:
            found = host.attack(adversary.gradient, block.images, block.labels, bench.threat, noise_key, block.ids)
        else:
            assert adversary.query is not None
            draws = Draws(noise_key, block.ids)
            found = adversary.query(host, block.images, block.labels, bench.threat, draws)
        # An attack is a plug-in and is not trusted to stay in the box.
        found = made_valid(block.images, found, bench.threat)
        if before is not None:
            found = worse_of(host, found, before.of(number).images, block.labels)
        return {"images": found, "predictions": CLASSIFICATION.predictions(host.score(found))}

    return found_in(gathered(bench, adversary.label, one))


def worse_of(host: HostNet, found: Bytes, other: Bytes, labels: Labels) -> Bytes:
    """Return of each two images that whose label leads by less, or loses by more, for the net on the host."""
    margins = [CLASSIFICATION.margin(host.score(images), labels) for images in (found, other)]
    worse: Bytes = np.where((margins[1] < margins[0])[:, None, None, None], other, found)
    return worse


def attack_board(
    adversary: Adversary, bench: Bench, host: HostNet, fleet: Fleet, replayed: Found | None
) -> AttackOutcome:
    """Attack what runs on the boards: ``replayed`` holds what gradients found, queries are asked on them themselves."""

    def one(board: Board, block: Images, number: int, tell: Callable[[], None]) -> Arrays:
        # Parts have the same arrays for every attack; -1 says that nothing was counted.
        queries = np.full(len(block.ids), -1, np.int64)
        spent_ns = np.full((len(block.ids), len(MARKS)), -1, np.int64)
        if replayed is not None:
            found, on_host = replayed.of(number).images, replayed.of(number).predictions
        else:
            name, options, noise_key = adversary.choice.name, _numbers(adversary), key(bench.seed, adversary.label)
            arguments = (name, options, bench.threat, noise_key, block.images, block.labels, block.ids)
            said = board.attack(*arguments, progress=lambda queries: tell(), budget=adversary.budget)
            queries, spent_ns = said.queries, said.spent_ns
            # Nor is a board, whatever runs on it.
            found = made_valid(block.images, said.images, bench.threat)
            with fleet.lock:  # the net on the host is one for all threads
                on_host = CLASSIFICATION.predictions(host.score(found))
        # What an attack says of its own success is not asked: the stored images are scored anew.
        judged = judge(board, found, bench.batch)
        return {
            "images": found,
            "board": judged.labels,
            "host": on_host,
            "queries": queries,
            "spent_ns": spent_ns,
            "moved": judged.moved,
            "restless": judged.restless,
        }

    joined = shared(bench, fleet, adversary.label, one)
    return AttackOutcome(
        label=adversary.label,
        kind=adversary.kind,
        images=joined["images"],
        board=joined["board"],
        host=joined["host"],
        queries=joined["queries"] if adversary.kind == "query" else None,
        spent_ns=joined["spent_ns"] if adversary.kind == "query" else None,
        moved=int(joined["moved"].sum()),
        restless=int(joined["restless"].sum()),
        substituted=None if replayed is None else replayed.substituted,
    )


def shared(bench: Bench, fleet: Fleet, name: str, one: OnBoard) -> Arrays:
    """Do each block on a board of the target that is free, and seal it; return all of them together, in order."""
    names = {f"{name}-{number:05d}": (number, block) for number, block in bench.images.blocks()}
    parts = {part: held for part in names if (held := bench.parts.held(part)) is not None}
    waiting, total, done = [part for part in names if part not in parts], len(bench.images.ids), len(parts)

    def tell(finished: int = 0) -> None:
        nonlocal done
        done = max(done, len(parts) + finished)
        with fleet.lock:
            bench.progress(name, min(total, done * BLOCK), total)

    def job(part: str, board: Board) -> Arrays:
        # Between two blocks everything so far is sealed.
        stop_if_interrupted()
        number, block = names[part]
        return bench.parts.seal(part, one(board, block, number, tell))

    tell()
    made = dict(zip(waiting, fleet.share([partial(job, part) for part in waiting], tell), strict=True))
    ordered = [parts.get(part) or made[part] for part in names]
    return {field: np.concatenate([part[field] for part in ordered]) for field in ordered[0]}


def _numbers(adversary: Adversary) -> Mapping[str, Any]:
    """Options as the plug-in holds them, so that the board needs no parser for ``8/255``."""
    return dict(vars(adversary.query))


def made_valid(images: Bytes, proposals: Bytes, threat: Threat) -> Bytes:
    """Return proposals projected into the threat's box around ``images``."""
    valid = project(images, proposals, threat)
    if outside := violations(images, valid, threat):
        raise ArtifactError(f"{outside} images left the box after projection; the evaluation cannot be trusted")
    return valid


def gathered(bench: Bench, name: str, one: Callable[[Images, int], Arrays], size: int | None = None) -> Arrays:
    """Do each block of ``size`` images on the host, and seal it; return all of them together, in order."""
    parts, size = [], size or BLOCK
    for number, block in bench.images.blocks(size):
        # Between two blocks everything so far is sealed.
        stop_if_interrupted()
        bench.progress(name, number * size, len(bench.images.ids))
        parts.append(bench.parts.get(f"{name}-{number:05d}", partial(one, block, number)))
    bench.progress(name, len(bench.images.ids), len(bench.images.ids))
    return {field: np.concatenate([part[field] for part in parts]) for field in parts[0]}
