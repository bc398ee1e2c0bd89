"""Trust: whose word lets a net's factory be imported and called. The word of a file that was read never does.

A factory is called for who trains with it, for who names it on this command line, and for ``--trust``. What a user has
trained with is remembered in the user's own state folder, never in a run: the same choice from the same file is the
call that this user has made before.
"""

from __future__ import annotations

import json
import os
from collections.abc import Collection
from contextlib import suppress
from pathlib import Path

from robustdeploy.core.factories import check_factory_name, is_factory, origin
from robustdeploy.core.files import atomic_write_json, canonical_json, sha256_of_text
from robustdeploy.core.recipe import Choice
from robustdeploy.errors import ArtifactError, RecipeError, RobustdeployError

Trust = bool | Collection[Choice | str]
"""``True``: whatever a file names. A collection: these factories, by name, or as a recipe's choice with its options."""


def state_folder() -> Path:
    """Return where robustdeploy keeps what is this user's own: in ``XDG_STATE_HOME``, else in ``~/.local/state``."""
    given = os.environ.get("XDG_STATE_HOME", "")
    # The XDG specification has relative paths ignored: they would depend on the current folder.
    return (Path(given) if Path(given).is_absolute() else Path.home() / ".local" / "state") / "robustdeploy"


def remember(choice: Choice) -> None:
    """Note that the user trains with this factory; a state folder that cannot be written is no failure."""
    if is_factory(choice.name) and (path := _record(choice)) is not None and not path.exists():
        # Without the note the user is only asked again.
        with suppress(RobustdeployError, OSError):
            atomic_write_json(path, {**_plain(choice), "file": str(origin(choice.name))})


def check_trusted(choice: Choice, said_by: Path, trust: Trust) -> None:
    """Refuse to call the factory that the file ``said_by`` names, unless the user's own word stands for it."""
    if not is_factory(choice.name):
        return
    try:
        check_factory_name(choice.name)
    except RecipeError as error:
        raise ArtifactError(f"{said_by}: {error}") from error
    # The name was checked before: even a trusted word must not call what lies in Python's own library.
    if trust is True or (trust and _named(choice, trust)):
        return
    path = _record(choice)
    if path is not None and path.is_file():
        return
    where = origin(choice.name)
    raise ArtifactError(
        f"{said_by} names the factory {told(choice)}, which would run {where or 'a module that is not found here'}; "
        "only that file asked for it. If you know this code, repeat with --trust (in Python: trust=True), or name "
        "the same factory with the same options yourself: --set net=… or a --recipe of yours"
    )


def told(choice: Choice) -> str:
    """Return a net as a recipe would name it."""
    parts = ", ".join(f"{name}: {value}" for name, value in {"name": choice.name, **choice.options}.items())
    return f"{{{parts}}}"


def _named(choice: Choice, trust: Trust) -> bool:
    words = (trust,) if isinstance(trust, str) else trust
    assert not isinstance(words, bool)
    return any(choice.name == word if isinstance(word, str) else _plain(choice) == _plain(word) for word in words)


def _record(choice: Choice) -> Path | None:
    """The file that says the user has trained with this choice; its name is a hash of it and of where the code is."""
    file = origin(choice.name)
    if file is None:
        return None
    try:
        # With its file: another project may have a module of the same name, whose code nobody has vouched for.
        mark = sha256_of_text(canonical_json({**_plain(choice), "file": str(file.resolve())}))
        return state_folder() / "factories" / f"{mark}.json"
    except (OSError, RuntimeError, ValueError):  # no home folder, or a path that no state can name
        return None


def _plain(choice: Choice) -> dict[str, object]:
    plain: dict[str, object] = json.loads(choice.model_dump_json())
    return plain
