"""Given: what a path turns out to be that a user gave for a run, and how to get from there to one.

Nothing here opens a file of another tool: a name and the files beside it tell enough.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from robustdeploy.core.complaint import did_you_mean
from robustdeploy.errors import ArtifactError

RUN_FILES = ("recipe.yaml", "ledger.jsonl")
NET_FILES = ("net.json", "model.safetensors")
ACCEPTED = "Accepted are a run, by folder or name, and a folder that holds net.json and model.safetensors."
NET_SUFFIXES = (".onnx", ".pt", ".pth", ".ckpt", ".bin", ".safetensors", ".pt2")
"""Of files that ``import`` takes, by what lies in them."""
_TAKEN = "import takes an ONNX file (.onnx), and weights of PyTorch (.pt, .pth, .ckpt, .bin, .safetensors, .pt2)"
_SAVE = "`robustdeploy import FILE` makes a run of an ONNX file and of weights (docs/how-to/bring-your-own-net.md)."
_AN_ENGINE = "an engine for one device, and evaluate builds its engine itself"
_WEIGHTS = "a file of PyTorch, which becomes a run by `robustdeploy import`"
_KINDS = {
    **dict.fromkeys((".pt", ".pth", ".ckpt", ".bin", ".pt2"), _WEIGHTS),
    **dict.fromkeys((".pkl", ".tar"), "a file of Python objects, which is never read here"),
    ".safetensors": "a file of weights, which becomes a run by `robustdeploy import`",
    ".onnx": "an ONNX file, which becomes a run by `robustdeploy import`",
    **dict.fromkeys((".engine", ".trt", ".plan", ".hef", ".rknn", ".blob"), _AN_ENGINE),
    **dict.fromkeys((".tflite", ".pb", ".h5", ".keras", ".mlmodel", ".mlpackage", ".xml"), "a net of another tool"),
}


def is_run(folder: Path) -> bool:
    """Whether a folder is that of a run."""
    return (folder / RUN_FILES[0]).is_file() and (folder / RUN_FILES[1]).is_file()


def is_stored_net(folder: Path) -> bool:
    """Whether a folder holds the two files of a net at its top; a run keeps them in ``nets``."""
    return all((folder / name).is_file() for name in NET_FILES)


def is_net_file(path: Path) -> bool:
    """Whether a path is, by its name, that of a file which ``import`` may take."""
    return path.suffix.lower() in NET_SUFFIXES and not path.is_dir() and not is_stored_net(path.parent)


def kind_of_net(path: Path, wanted: str = "") -> str:
    """Return ``onnx`` or ``weights``; what is no file with a net is an ArtifactError that says what it is.

    So is one of another kind than ``wanted``.
    """
    if not path.exists():
        gone = "it is a link to what is gone" if path.is_symlink() else "it does not exist"
        raise ArtifactError(f"{path} cannot be imported: {gone}; {_TAKEN}")
    if path.is_dir():
        what = "a stored net, which `robustdeploy evaluate` takes" if is_stored_net(path) else "a folder"
        raise ArtifactError(f"{path} cannot be imported: it is {what}; {_TAKEN}")
    suffix = path.suffix.lower()
    if suffix not in NET_SUFFIXES:
        what = _KINDS.get(suffix, f"a file that ends in {suffix}" if suffix else "a file without an ending")
        raise ArtifactError(f"{path} cannot be imported: it is {what}; {_TAKEN}")
    kind = "onnx" if suffix == ".onnx" else "weights"
    if wanted not in ("", kind):
        raise ArtifactError(
            f"{path} is an ONNX file, which has no layers of torch that could be trained or masked; give the weights "
            "that it was made of (.pt, .safetensors)"
        )
    return kind


def runs_below(runs: Path) -> list[Path]:
    """Return the runs in ``runs``, damaged ones too, the one with the newest entry in its ledger first."""

    def changed(folder: Path) -> tuple[float, str]:
        # The ledger grows with every step. A folder's own time changes only when files come and go.
        marks = [(folder / name).stat().st_mtime for name in reversed(RUN_FILES) if (folder / name).is_file()]
        return (marks[0] if marks else -1.0, folder.name)

    try:
        folders = [path for path in runs.iterdir() if path.is_dir() and not path.is_symlink()]
    except OSError:
        return []
    found = {path: changed(path) for path in folders}
    return sorted((path for path in found if found[path][0] >= 0), key=lambda path: found[path], reverse=True)


def newest(found: Sequence[Path], most: int = 5) -> str:
    """Return the names of the first of some runs, for a sentence."""
    names = [path.name for path in found[:most]]
    return ", ".join(names) + (f" and {len(found) - most} older" if len(found) > most else "")


def no_latest(runs: Path) -> str:
    """Return why there is no latest run in ``runs``, and which could be named instead."""
    if not (found := runs_below(runs)):
        return f"there is no run in {runs} yet; `robustdeploy run` makes one, or name a run folder"
    link = runs / "latest"
    gone = f"{link} points to '{link.readlink()}', which is gone" if link.is_symlink() else f"{link} is missing"
    return f"{gone}. Name one of the runs in {runs}, newest first: {newest(found)}"


def no_run(path: Path, runs: Path) -> str:
    """Return what ``path`` is, since it is no run, and how to get from there to one."""
    # Asked first: a file of a run also looks like a file of another kind.
    if (around := next((each for each in path.absolute().parents if is_run(each)), None)) and path.exists():
        return f"{path} is a part of a run; give the run itself: {_relative(around)}"
    if path.is_dir():
        return f"{path} is no run folder: {_of_folder(path)}"
    kind = _KINDS.get(path.suffix.lower())
    if kind is not None:
        if path.is_file() and is_stored_net(path.parent):
            return f"{path} is one of the two files of a net; give their folder: {path.parent}"
        missing = "" if path.exists() else f"{path} does not exist, and it would be no run. "
        return f"{missing}{path.name} is {kind}. {ACCEPTED} {_SAVE}"
    if not path.exists():
        found = runs_below(runs)
        near = did_you_mean(path.name, [each.name for each in found])
        listed = f"runs in {runs}: {newest(found)}" if found else f"there is no run in {runs} yet"
        return f"{path} does not exist, and is no run in {runs}{near} ({listed}). {ACCEPTED}"
    return f"{path} is a file and no run{_of_file(path)}"


def _of_file(path: Path) -> str:
    if path.suffix.lower() in (".yaml", ".yml"):
        return f". A recipe becomes one with `robustdeploy run {path}`. {ACCEPTED}"
    if path.suffix.lower() == ".json":
        return f". A report is read by `robustdeploy gate` and `robustdeploy compare`. {ACCEPTED}"
    if path.suffix.lower() in (".zip", ".tgz", ".gz", ".tar", ".xz", ".7z"):
        return f". Unpack it and give the folder. {ACCEPTED}"
    return f". {ACCEPTED}"


def _of_folder(folder: Path) -> str:
    if inside := runs_below(folder):
        return f"it holds runs ({newest(inside)}). Name one of them."
    there = [name for name in (*RUN_FILES, *NET_FILES) if (folder / name).exists()]
    if there:
        missing = [name for name in (NET_FILES if set(there) & set(NET_FILES) else RUN_FILES) if name not in there]
        return f"it holds {' and '.join(there)}, but no {' and no '.join(missing)}. {ACCEPTED}"
    files = sorted(path for path in folder.iterdir() if not path.name.startswith("."))
    foreign = next((path for path in files if path.suffix.lower() in _KINDS), None)
    if foreign is not None:
        return f"{foreign.name} in it is {_KINDS[foreign.suffix.lower()]}. {ACCEPTED} {_SAVE}"
    if {"train", "test"} <= {path.name for path in files} or {"train", "val"} <= {path.name for path in files}:
        return f"it looks like a data set, which is given with --data. {ACCEPTED}"
    return f"it is empty. {ACCEPTED}" if not files else f"a run folder holds {' and '.join(RUN_FILES)}. {ACCEPTED}"


def _relative(path: Path) -> Path:
    return path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path
