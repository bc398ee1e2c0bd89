"""The run: a folder that holds one recipe, its stages and the ledger of what was done."""

from __future__ import annotations

import fcntl
import os
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from robustdeploy.core.files import (
    atomic_write_text,
    canonical_json,
    open_own,
    sha256_of_file,
    sha256_of_text,
    storage_errors,
)
from robustdeploy.core.given import no_latest, no_run
from robustdeploy.core.load import load_recipe, resolved_yaml
from robustdeploy.core.plain import plain
from robustdeploy.core.recipe import Recipe, Train
from robustdeploy.core.settings import differences
from robustdeploy.core.subject import PRUNED
from robustdeploy.engine.ledger import LEDGER, Ledger, own_net
from robustdeploy.engine.manifest import FILE_NAME, Manifest, read_manifest
from robustdeploy.engine.places import NETS, net_place
from robustdeploy.engine.seal import Slot, place_problems, sealed_manifests
from robustdeploy.engine.verify import RECIPE, held_by
from robustdeploy.engine.verify import verify_run as verify_run  # whoever opens runs checks them
from robustdeploy.errors import ArtifactError, RecipeError, StorageError, UsageError
from robustdeploy.foreign import shown_name

LOCK, LATEST = ".lock", "latest"
_EARLIER = ("train", "dense", "export", "device")
"""Folders at the top of a run of an earlier version."""
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")


def training_fingerprint(recipe: Recipe) -> str:
    """Return the SHA-256 of what decides the trained net: not the evaluation, the gate or where it is computed."""
    return sha256_of_text(canonical_json(training_content(recipe)))


def training_content(recipe: Recipe) -> dict[str, Any]:
    """Return what of a recipe decides the trained net."""
    content: dict[str, Any] = plain(recipe)
    for left_out in ("description", "precisions", "evaluate", "gate", "gate_baseline"):
        # These are read after training: to change a gate must not ask for hours of training again.
        del content[left_out]
    content["baseline"] = bool(recipe.baseline)  # where the dense net is measured changes no training
    # A field that came later is left out where it changes nothing, so that older runs keep their fingerprint.
    for name in ("skip_unreadable", "options"):
        if not content["data"][name]:
            del content["data"][name]
    if not content["preprocess"]:
        del content["preprocess"]
    if content["budget"]["latency"] is None:
        del content["budget"]["latency"]
    content["budget"]["channel_multiple"] = recipe.budget.channel_multiple or 1
    if content["budget"]["preferred_multiple"] in (None, 1):
        del content["budget"]["preferred_multiple"]
    # They came later too: a recipe that leaves them at their defaults trains as it did before they existed.
    default = Train()
    later = ("start", "schedule", "phases", "optimiser")
    unused = [name for name in later if getattr(recipe.train, name) == getattr(default, name)]
    for left_out in ("checkpoint_every_s", "device", *unused):
        del content["train"][left_out]
    return content


def named_folder(runs: Path, name: str) -> Path:
    """Return the folder of that name in ``runs``; a name that is none, or leads out of it, is a UsageError."""
    if not _NAME.fullmatch(name) or name == LATEST:
        raise UsageError(
            f"'{name}' cannot name a run; use up to 100 of letters, digits, '.', '_' and '-', and not '{LATEST}'"
        )
    return runs / name


@dataclass(frozen=True)
class Run:
    """One run folder."""

    root: Path
    recipe: Recipe

    @property
    def name(self) -> str:
        """The folder's own name."""
        return self.root.resolve().name

    @property
    def ledger(self) -> Ledger:
        """What was done in this run, line by line."""
        return Ledger(self.root / LEDGER)

    @property
    def net(self) -> str:
        """Which net is the run's own: ``pruned``, ``dense`` or ``imported``."""
        return own_net(self.ledger.records())

    @property
    def net_place(self) -> str:
        """Where that net lies."""
        return net_place(self.net)

    @classmethod
    def for_recipe(
        cls, runs: Path, recipe: Recipe, name: str | None = None, *, anew: bool = False, net: str = PRUNED
    ) -> Run:
        """Open the run of ``recipe`` below ``runs``, made when it is new; a name taken by another is a UsageError.

        Once its net is trained a run keeps its recipe, evaluation and gate too, unless all is made ``anew``. ``net``
        says what the run's own net is.
        """
        run = cls(cls.folder_for(runs, recipe, name), recipe)
        _make_folder(run.root)
        held = check_same_training(run.root, recipe)
        # Its evidence was made under that recipe, so a changed evaluation or gate must not replace it quietly.
        if held is not None and (run.root / net_place(net) / FILE_NAME).exists() and not anew:
            run = cls(run.root, held)
        if run.recipe is recipe:
            run._write_recipe(net)
        _point_latest_at(run.root)
        return run

    @staticmethod
    def folder_for(runs: Path, recipe: Recipe, name: str | None = None) -> Path:
        """Return the folder that the run of ``recipe`` has or would have; a name that is none is a UsageError."""
        return named_folder(runs, name or f"{recipe.name}-{training_fingerprint(recipe)[:8]}")

    @classmethod
    def open(cls, path: Path | None, runs: Path) -> Run:
        """Open a run as ``find`` finds it; a recipe that the ledger does not name is an ArtifactError."""
        root = cls.find(path, runs)
        run = cls(root, _recipe_in(root))
        known = [r.data.get("sha256") for r in run.ledger.records() if r.event == "recipe"]
        # A recipe that was edited by hand would explain results that it did not lead to.
        if sha256_of_file(root / RECIPE) not in known:
            raise ArtifactError(
                f"{root / RECIPE} is not the recipe that {LEDGER} names: one of the two was edited; put it back, or "
                "start a new run"
            )
        return run

    @staticmethod
    def find(path: Path | None, runs: Path) -> Path:
        """Return a run's folder, given that or a name, or the latest below ``runs``; what is none is a UsageError."""
        root = runs / LATEST if path is None else path
        # A folder of that name in the current one comes first, as for any other path on the command line.
        if path is not None and not path.exists() and (runs / path).is_dir():
            root = runs / path
        if path is None and not root.exists():
            raise UsageError(no_latest(runs))
        if not (root / RECIPE).is_file():
            raise UsageError(no_run(root, runs))
        check_readable(root)
        try:
            shown_name(root.resolve().name)
        except ValueError as error:
            raise UsageError(f"{root} cannot be a run: {error}; rename the folder") from error
        # The link may move to another run while this one is in use.
        return root.parent / root.resolve().name if path is None else root

    def slot(self, name: str, folder: str, inputs: Mapping[str, str], parameters: Mapping[str, Any]) -> Slot:
        """Return where the stage ``name`` is sealed, given the hashes of its inputs and its part of the recipe."""
        return Slot(self.root, name, folder, dict(inputs), plain(parameters), self.recipe.seed, self.ledger)

    def manifests(self) -> dict[str, Manifest]:
        """Return the manifests of all finished stages by folder; one that cannot be read is left out."""
        return dict(held_by(self.root).made) if self.ledger.records() else {}

    def places(self) -> Collection[str]:
        """Return the folders of all finished stages, by the ledger, those whose manifest cannot be read among them."""
        return sealed_manifests(self.ledger.records()).keys()

    def sealed(self, place: str) -> Manifest:
        """Return the manifest of the finished stage in ``place``; any file that is not as written, an ArtifactError."""
        if problems := place_problems(self.root, place, sealed_manifests(self.ledger.records()).get(place)):
            raise ArtifactError(*problems)
        return read_manifest(self.root / place)

    def enter_written(self, files: Mapping[Path, str]) -> None:
        """Enter files at the top of the run, which no manifest seals, with their SHA-256."""
        self.ledger.append("written", files={path.name: sha256 for path, sha256 in files.items()})

    def enter_lost(self, subjects: Sequence[str], why: str) -> None:
        """Enter that subjects were to be measured and were not."""
        self.ledger.append("lost", subjects=list(subjects), why=why)

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Hold the run for this process; another holder is a StorageError with its process id.

        The kernel frees the lock when its holder ends, however it ends.
        """
        path = self.root / LOCK
        with storage_errors(path):
            # The file is never removed: another process may hold it open, and a third would lock a new file of the same
            # name.
            handle = open_own(path, os.O_RDWR | os.O_CREAT)
        try:
            try:
                # A process id in a file alone would outlive its process, and after a reboot another process may have
                # that number.
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise in_use(self.root, _named_in(handle)) from error
            # A longer number of an earlier holder would leave digits behind.
            os.ftruncate(handle, 0)
            os.pwrite(handle, str(os.getpid()).encode(), 0)
            yield
        finally:
            os.close(handle)

    def _write_recipe(self, net: str) -> None:
        path, text = self.root / RECIPE, resolved_yaml(self.recipe)
        mark = sha256_of_text(text)
        known = [(r.data["sha256"], r.data.get("net")) for r in self.ledger.records() if r.event == "recipe"]
        if path.exists() and sha256_of_file(path) == mark and known[-1:] == [(mark, net)]:
            return
        training = training_fingerprint(self.recipe)
        # The ledger first: after a kill in between, the file does not fit the last entry, so both are written again.
        self.ledger.append("recipe", sha256=mark, training=training, net=net, new=not known)
        atomic_write_text(path, text)


def check_same_training(root: Path, recipe: Recipe) -> Recipe | None:
    """Return the recipe of the run at ``root``, None where there is none; another training is a UsageError."""
    if not (root / RECIPE).exists():
        return None
    check_readable(root)
    held, mark = _recipe_in(root), training_fingerprint(recipe)
    if (other := training_fingerprint(held)) != mark:
        changed = list(differences(training_content(held), training_content(recipe)))
        named = "; ".join(f"{each.field} is {each.used}, there {each.recipe}" for each in changed[:3])
        raise UsageError(
            f"{root} holds another recipe ('{held.name}', fingerprint {other[:8]}; asked for "
            f"'{recipe.name}', {mark[:8]}{f': {named}' if named else ''}); choose another run name or remove that "
            "folder"
        )
    return held


def check_readable(root: Path) -> None:
    """Refuse a run of an earlier version, and say how its net is taken over."""
    if any((root / name).is_dir() for name in _EARLIER) and not (root / NETS).exists():
        net = root / _EARLIER[0]
        taken = f"; its net becomes a new one with `robustdeploy evaluate {net} --recipe {root / RECIPE}`"
        raise UsageError(
            f"{root} is a run of an earlier version of robustdeploy, whose folders are not read here: give the new run "
            f"another name{taken if (net / 'net.json').is_file() else ''}"
        )


def holder(root: Path) -> str | None:
    """Return the number of the process that works in the run at ``root``, or None; nothing is changed by asking."""
    try:
        handle = open_own(root / LOCK, os.O_RDONLY)
    except (OSError, ArtifactError):
        return None
    try:
        # A shared lock: several processes may ask at once without taking one another for the holder.
        fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return _named_in(handle)
    except OSError:  # a file system without locks
        return None
    finally:
        os.close(handle)
    return None


def in_use(root: Path, process: str) -> StorageError:
    """Return the error for a run that another process works in."""
    return StorageError(f"{root} is in use by process {process}; wait for it to end, or choose another run name")


def _named_in(handle: int) -> str:
    # The holder may not have written its number yet, and a file that was sent may hold anything.
    return os.pread(handle, 32, 0).decode(errors="replace").strip() or "unknown"


def _make_folder(root: Path) -> None:
    try:
        with storage_errors(root):
            root.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError) as error:
        raise UsageError(f"{root} cannot be a run folder: a file of that name is in the way") from error


def _recipe_in(root: Path) -> Recipe:
    """Read a run's recipe; its plug-ins may have been uninstalled since, and that is no hindrance to reading."""
    try:
        return load_recipe(root / RECIPE, registries=None)
    except RecipeError as error:
        raise ArtifactError("the run's own recipe cannot be read any more; start a new run:", *error.args) from error


def _point_latest_at(root: Path) -> None:
    """Move the link in one step; where links are not to be had, ``latest`` is simply missing."""
    link = root.parent / LATEST
    if link.is_symlink() and link.readlink() == Path(root.name):
        return
    if link.exists() and not link.is_symlink():
        raise UsageError(f"{link} is no link; rename it, since that name is kept for the newest run")
    # A link cannot be changed in place. Without rename there would be a moment in which `latest` is missing.
    beside = root.parent / f".{LATEST}.{os.getpid()}"
    with storage_errors(link):
        # A kill may have left it, of a process that had the same number.
        beside.unlink(missing_ok=True)
        beside.symlink_to(root.name)
        beside.replace(link)
