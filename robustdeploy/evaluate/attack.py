"""Run one attack over all images in fixed blocks: propose, project into the box, replay on the models, seal."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from robustdeploy.attacks.engine.protocol import EngineAttack
from robustdeploy.attacks.protocol import GradientAttack
from robustdeploy.attacks.substitutes.protocol import SubstituteAttack
from robustdeploy.core.archive import Arrays
from robustdeploy.core.ensembles import Whole, listed
from robustdeploy.core.interrupts import stop_if_interrupted
from robustdeploy.core.plain import plain
from robustdeploy.core.recipe import Choice
from robustdeploy.core.registry import ATTACKS, ENGINE_ATTACKS, QUERY_ATTACKS, SUBSTITUTES
from robustdeploy.data import images as data
from robustdeploy.data.order import epoch_order
from robustdeploy.devices.board import Board
from robustdeploy.devices.fleet import Fleet
from robustdeploy.errors import ArtifactError, UsageError
from robustdeploy.evaluate.asking import Engine, chosen_by, engine_on, sought
from robustdeploy.evaluate.box import project, violations
from robustdeploy.evaluate.host import HostNet
from robustdeploy.evaluate.judge import judge
from robustdeploy.evaluate.outcomes import AttackOutcome, Bits, Kind, Substituted, scores_told
from robustdeploy.evaluate.parts import Parts
from robustdeploy.evaluate.workers import Job, Share, in_turn
from robustdeploy.onboard.criterion import CLASSIFICATION
from robustdeploy.onboard.draws import Draws, key
from robustdeploy.onboard.queries import MARKS
from robustdeploy.onboard.types import Bytes, Labels, Needs, QueryAttack, Threat

Array = TypeVar("Array", bound=npt.NDArray[Any])
Places = npt.NDArray[np.int64] | slice
"""Which images, by their place among all."""

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
    engine: EngineAttack | None = None
    whole: Whole | None = None
    """The ensemble that it is a part of; it then attacks only what the parts before it left standing."""

    @property
    def asks(self) -> bool:
        """Whether it asks what is deployed; otherwise it follows a net in torch."""
        return self.kind not in ("transfer", "replay")

    @property
    def settings(self) -> Mapping[str, Any]:
        """How the attack was run, for the conditions of its rows."""
        built: Any = self.gradient or self.query or self.substitute or self.engine
        options = {name: plain(value) for name, value in vars(built).items() if value is not None}
        # One that runs another attack has an option of that name.
        inner = {"runs": options.pop("attack")} if "attack" in options else {}
        needs = {"needs": self.needs} if self.needs else {}
        return {"attack": self.choice.name, **needs, **options, **inner, **getattr(built, "conditions", {})}

    @property
    def needs(self) -> Needs | None:
        """What an attack reads of the engine's answers; one that does not say is taken to read its scores."""
        return getattr(self.query, "NEEDS", "scores") if self.query or self.engine else None

    @property
    def budget(self) -> int | None:
        """Most queries that a query attack spends on an image: its field ``queries``; None where it has none."""
        queries = getattr(self.query, "queries", None)
        # A plug-in may call anything `queries`, and True is an int in Python.
        return queries if type(queries) is int else None


def adversary_from(choice: Choice, whole: Whole | None = None) -> Adversary:
    """Find and build one attack, perhaps a part of an ensemble."""
    named = whole.part if whole else str
    kind: Kind
    if choice.name in QUERY_ATTACKS:
        query = QUERY_ATTACKS.build(choice.name, choice.options)
        return Adversary(choice, "query", named(str(getattr(query, "label", choice.name))), query=query, whole=whole)
    if choice.name in SUBSTITUTES:
        substitute: SubstituteAttack = SUBSTITUTES.build(choice.name, choice.options)
        return Adversary(choice, "substitute", named(substitute.label), substitute=substitute, whole=whole)
    if choice.name in ENGINE_ATTACKS:
        engine: EngineAttack = ENGINE_ATTACKS.build(choice.name, choice.options)
        kind = getattr(engine, "KIND", "straight-through")
        return Adversary(choice, kind, named(engine.label), engine=engine, whole=whole)
    gradient = ATTACKS.build(choice.name, choice.options)
    kind = getattr(gradient, "KIND", "transfer")
    return Adversary(choice, kind, named(gradient.label), gradient=gradient, whole=whole)


def adversaries_from(choices: tuple[Choice, ...]) -> tuple[Adversary, ...]:
    """Build all attacks of a recipe; two that would share a name in the report are refused."""
    built = tuple(adversary_from(choice, whole) for choice, whole in listed(choices))
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

    def at(self, places: Places) -> Images:
        """Return those at ``places``."""
        return Images(self.ids[places], self.images[places], self.labels[places])

    def blocks(self, size: int | None = None) -> Iterator[tuple[int, Images]]:
        """Split into numbered blocks, of ``BLOCK`` images by default, wherever a run was resumed."""
        size = size or BLOCK
        for start in range(0, len(self.ids), size):
            yield start // size, self.at(slice(start, start + size))


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
    share: Share | None = None
    """Does the blocks of attacks in torch; unset: this process, one after the other."""


@dataclass(frozen=True)
class Found:
    """What one attack found in torch, for all test images, and how the attacked net labels it."""

    images: Bytes
    predictions: Labels
    substituted: Substituted | None = None
    """Only where it was found on a net that learnt from the attacked one's labels."""
    lost: Bits | None = None
    """Images that were wrong as the attack proposed them, and are right in 8 bits; None where nobody looked."""

    def at(self, places: Places) -> Found:
        """Return what was found of the images at ``places``."""
        return replace(self, images=self.images[places], predictions=self.predictions[places], lost=None)

    def of(self, block: int) -> Found:
        """Return the part of one block of images."""
        return self.at(slice(block * BLOCK, (block + 1) * BLOCK))


def found_in(arrays: Arrays, substituted: Substituted | None = None) -> Found:
    """Return what was found, out of the arrays ``images``, ``predictions`` and, where anybody looked, ``lost``."""
    return Found(arrays["images"], arrays["predictions"], substituted, arrays.get("lost"))


def attack_host(
    adversary: Adversary, bench: Bench, host: HostNet, before: Found | None = None, ahead: Found | None = None
) -> Found:
    """Attack a net in torch: by its gradient, or by queries where the attack asks for these.

    ``before`` is what the same attack found on another precision of it: of each image the worse one is kept, since a
    gradient that was passed through rounding may miss what the unrounded net's finds. ``ahead`` is what the parts of an
    ensemble before this one left: only what stands there is attacked, and all else stays as it is there.
    """
    if ahead is not None:
        # Over all blocks at once, so that blocks stay full however few images stand.
        stands = np.flatnonzero(ahead.predictions == bench.images.labels)
        if not len(stands):
            return ahead
        few = replace(bench, images=bench.images.at(stands))
        own = attack_host(adversary, few, host, before and before.at(stands))
        return Found(_put(ahead.images, stands, own.images), _put(ahead.predictions, stands, own.predictions))

    def job(block: Images, number: int) -> Job:
        tried = None if before is None else before.of(number).images
        return partial(_attacked, adversary, bench.threat, bench.seed, block, tried)

    return found_in(gathered(bench, adversary.label, job, bench.share or partial(in_turn, host)))


def _attacked(
    adversary: Adversary, threat: Threat, seed: int, block: Images, tried: Bytes | None, host: HostNet
) -> Arrays:
    """Attack the images of one block in torch."""
    # Without the block's number: noise belongs to an image, so other block sizes find the same images.
    noise_key, lost = key(seed, adversary.label), np.zeros(len(block.ids), np.bool_)
    if adversary.gradient is not None:
        # What a replay is wrong on is decided by the net itself, and not by its faster twin.
        asked = replace(host, followed=host.net) if adversary.kind == "replay" else host
        proposed = asked.proposed(adversary.gradient, block.images, block.labels, threat, noise_key, block.ids)
        found = host.rounded(proposed)
        lost = host.lost_to_rounding(proposed, found, block.labels)
    elif adversary.engine is not None:
        of = block.images, block.labels, block.ids
        found = host.rounded(sought(adversary.engine, host, Engine(host), of, threat, noise_key).images)
    else:
        assert adversary.query is not None
        draws = Draws(noise_key, block.ids)
        found = adversary.query(host, block.images, block.labels, threat, draws)
    # An attack is a plug-in and is not trusted to stay in the box.
    found = made_valid(block.images, found, threat)
    if tried is not None:
        found = worse_of(host, found, tried, block.labels)
    return {"images": found, "predictions": CLASSIFICATION.predictions(host.score(found)), "lost": lost}


def worse_of(host: HostNet, found: Bytes, other: Bytes, labels: Labels) -> Bytes:
    """Return of each two images that whose label leads by less, or loses by more, for the net on the host."""
    margins = [CLASSIFICATION.margin(host.score(images), labels) for images in (found, other)]
    worse: Bytes = np.where((margins[1] < margins[0])[:, None, None, None], other, found)
    return worse


def _put(values: Array, places: Places, own: Array) -> Array:
    """Return a copy of ``values`` with ``own`` at ``places``."""
    changed: Array = values.copy()
    changed[places] = own
    return changed


def attack_board(
    adversary: Adversary,
    bench: Bench,
    host: HostNet,
    fleet: Fleet,
    replayed: Found | None,
    ahead: AttackOutcome | None = None,
) -> AttackOutcome:
    """Attack what runs on the boards: ``replayed`` holds what gradients found, queries are asked on them themselves.

    ``ahead`` is what the parts of an ensemble before this one gave. Queries are asked where the board still stands.
    """
    if ahead is not None:
        return _attack_on(adversary, bench, host, fleet, replayed, ahead)

    def one(board: Board, block: Images, number: int, tell: Callable[[], None]) -> Arrays:
        found = _on_one(adversary, bench, host, (fleet, board), block, replayed and replayed.of(number), tell)
        # What an attack says of its own success is not asked: the stored images are scored anew.
        judged = judge(board, found["images"], bench.batch)
        told: Arrays = {"board": judged.labels, "scores": scores_told(judged.scores, block.labels)}
        return {**found, **told, "moved": judged.moved, "restless": judged.restless}

    joined = shared(bench, fleet, adversary.label, one)
    counted = adversary.needs is not None
    return AttackOutcome(
        label=adversary.label,
        kind=adversary.kind,
        images=joined["images"],
        board=joined["board"],
        host=joined["host"],
        queries=joined["queries"] if counted else None,
        spent_ns=joined["spent_ns"] if counted else None,
        by_chance=joined["by_chance"] if adversary.kind == "divergence" else None,
        host_images=replayed.images if replayed is not None and adversary.kind == "replay" else None,
        scores=joined.get("scores"),
        moved=int(joined["moved"].sum()),
        restless=int(joined["restless"].sum()),
        substituted=None if replayed is None else replayed.substituted,
    )


def _on_one(
    adversary: Adversary,
    bench: Bench,
    host: HostNet,
    on: tuple[Fleet, Board],
    block: Images,
    replayed: Found | None,
    tell: Callable[[], None],
) -> Arrays:
    """Attack one block on one board of a fleet, or take what was found of it; return images and what was spent."""
    fleet, board = on
    # Parts have the same arrays for every attack; -1 says that nothing was counted.
    queries = np.full(len(block.ids), -1, np.int64)
    spent_ns = np.full((len(block.ids), len(MARKS)), -1, np.int64)
    noise_key, of, more = key(bench.seed, adversary.label), (block.images, block.labels, block.ids), {}
    if replayed is not None:
        found, on_host = replayed.images, replayed.predictions
        if adversary.kind == "replay":
            assert adversary.gradient is not None
            # Another one may be the worst here than in torch.
            engine = engine_on(board, bench.batch, tell, fleet.lock)
            found = made_valid(block.images, chosen_by(adversary.gradient, engine, of, bench.threat), bench.threat)
    else:
        if adversary.engine is not None:
            own = sought(
                adversary.engine, host, engine_on(board, bench.batch, tell, fleet.lock), of, bench.threat, noise_key
            )
            found, queries, spent_ns = host.rounded(own.images), own.queries, own.spent_ns
            more = {"by_chance": own.by_chance} if adversary.kind == "divergence" else {}
        else:
            arguments = (adversary.choice.name, _numbers(adversary), bench.threat, noise_key, *of)
            said = board.attack(*arguments, progress=lambda queries: tell(), budget=adversary.budget)
            found, queries, spent_ns = said.images, said.queries, said.spent_ns
        # Nor is a board, whatever runs on it.
        found = made_valid(block.images, found, bench.threat)
        with fleet.lock:  # the net on the host is one for all threads
            on_host = CLASSIFICATION.predictions(host.score(found))
    return {"images": found, "host": on_host, "queries": queries, "spent_ns": spent_ns, **more}


def _attack_on(
    adversary: Adversary, bench: Bench, host: HostNet, fleet: Fleet, replayed: Found | None, ahead: AttackOutcome
) -> AttackOutcome:
    """Go on from what earlier parts of an ensemble gave: what they found stays where nothing new is."""
    # Of what gradients found, the images that the board has not judged yet.
    new = (
        ahead.right("board", bench.images.labels)
        if replayed is None
        else (replayed.images != ahead.images).any(axis=(1, 2, 3))
    )
    whole = adversary.whole.label if adversary.whole else ""
    named = replace(ahead, label=adversary.label, kind=adversary.kind, ensemble=whole, ahead=ahead)
    outcome = replace(named, queries=None, spent_ns=None, substituted=None)
    if replayed is None:
        # Nothing is asked of those that have fallen.
        zeros = np.zeros((len(new), len(MARKS)), np.int64)
        outcome = replace(outcome, queries=zeros[:, 0], spent_ns=zeros)
    by_chance = np.zeros(len(new), np.bool_) if adversary.kind == "divergence" else None
    outcome = replace(outcome, by_chance=by_chance)
    if not new.any():
        return replace(outcome, moved=0, restless=0)
    at = np.flatnonzero(new)
    few = replace(bench, images=bench.images.at(at))
    own = attack_board(adversary, few, host, fleet, replayed and replayed.at(at))
    names = ["images", "board", "host", *(("queries", "spent_ns") if replayed is None else ())]
    names += ["by_chance"] if by_chance is not None else []
    names += ["scores"] if own.scores is not None and outcome.scores is not None else []
    merged = {name: _put(getattr(outcome, name), at, getattr(own, name)) for name in names}
    return replace(outcome, **merged, moved=own.moved, restless=own.restless, substituted=own.substituted)


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
    # A part that an older version sealed lacks what is kept since.
    fields = [field for field in ordered[0] if all(field in part for part in ordered)]
    return {field: np.concatenate([part[field] for part in ordered]) for field in fields}


def _numbers(adversary: Adversary) -> Mapping[str, Any]:
    """Options as the plug-in holds them, so that the board needs no parser for ``8/255``."""
    return dict(vars(adversary.query))


def made_valid(images: Bytes, proposals: Bytes, threat: Threat) -> Bytes:
    """Return proposals projected into the threat's box around ``images``."""
    valid = project(images, proposals, threat)
    if outside := violations(images, valid, threat):
        raise ArtifactError(f"{outside} images left the box after projection; the evaluation cannot be trusted")
    return valid


def gathered(
    bench: Bench, name: str, job: Callable[[Images, int], Job], share: Share, size: int | None = None
) -> Arrays:
    """Do each block of ``size`` images on the host, and seal it; return all of them together, in order.

    ``job`` makes what does a block of its number, and ``share`` does these.
    """
    size, total = size or BLOCK, len(bench.images.ids)
    jobs = {f"{name}-{number:05d}": job(block, number) for number, block in bench.images.blocks(size)}
    parts = {part: held for part in jobs if (held := bench.parts.held(part)) is not None}
    stop_if_interrupted()
    bench.progress(name, min(total, len(parts) * size), total)
    for part, arrays in share({part: one for part, one in jobs.items() if part not in parts}):
        parts[part] = bench.parts.seal(part, arrays)
        bench.progress(name, min(total, len(parts) * size), total)
        # Between two blocks everything so far is sealed.
        stop_if_interrupted()
    ordered = [parts[part] for part in jobs]
    return {field: np.concatenate([part[field] for part in ordered]) for field in ordered[0]}
