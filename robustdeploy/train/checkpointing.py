"""Checkpointing: a training's checkpoints, its log, and the epochs it tells of. Rank 0 alone writes and tells."""

from __future__ import annotations

import time
from pathlib import Path

from robustdeploy.core.callback import SILENT, Callback, Event
from robustdeploy.core.files import atomic_write_text, canonical_json
from robustdeploy.errors import ArtifactError, TrainingError
from robustdeploy.prune.protocol import Prepared
from robustdeploy.train import ranks
from robustdeploy.train.checkpoints import State, load_checkpoint, save_checkpoint, state_from_bytes, state_to_bytes
from robustdeploy.train.training import Training


class Checkpointing:
    """The folder of one training: ``checkpoints/``, in it ``healthy/``, and ``metrics.jsonl``.

    The other ranks get what rank 0 reads there; their own ``folder`` is never touched.
    """

    def __init__(self, folder: Path, training: str, callback: Callback = SILENT, place: str = "train") -> None:
        self.log = folder / "metrics.jsonl"
        self._checkpoints = folder / "checkpoints"
        self._healthy = folder / "checkpoints" / "healthy"
        self._training = training
        self._callback, self._place = callback, place
        # Monotonic, as the wall clock may be set back while a training runs.
        self._saved_at = time.monotonic()

    def resume(self, training: Training) -> bool:
        """Put ``training`` where its newest sound checkpoint is; return whether there was one."""
        # Both folders: where the last checkpoints are damaged, the healthy state is the newest there is.
        found = [self._read(folder) for folder in (self._checkpoints, self._healthy)]
        states = [state for state in found if state is not None]
        # max gives the first of equals: of the same step, the one in checkpoints knows of a collapse that the healthy
        # one does not.
        return self._restored(training, max(states, key=lambda state: state.step) if states else None)

    def go_back(self, training: Training) -> None:
        """Put ``training`` where it was last known to be healthy; what happened since is forgotten, but not why."""
        # The state to go back to is older than the collapse. Without its event the same task would run into it again.
        events, passes, seconds = training.events, training.passes, training.seconds
        if not self._restored(training, self._read(self._healthy)):
            raise TrainingError(
                f"the training has collapsed and its last healthy state is gone from {self._healthy}: "
                "give a smaller train.task alpha or train.lr, and the run a name of its own if it has one"
            )
        training.events = events
        training.passes, training.spent_s = passes, seconds  # what was spent in vain was spent
        # restore() made the loss before the events were put back, and with them the safer task.
        training.attach()

    def save(self, training: Training, *, healthy: bool = False) -> None:
        """Write a checkpoint; one that is ``healthy`` enough to go back to stays until there is another."""
        state = training.state()
        if ranks.rank() == 0:
            save_checkpoint(self._checkpoints, state)
            if healthy:
                # In a folder of its own, or the many checkpoints since would push it out.
                save_checkpoint(self._healthy, state, kept=1)
            self.write_log(training)
        self._saved_at = time.monotonic()

    def due(self, every_s: float) -> bool:
        """Whether the last checkpoint is older than ``every_s`` seconds."""
        return time.monotonic() - self._saved_at > every_s

    def write_log(self, training: Training) -> None:
        """Write one JSON line per epoch."""
        if ranks.rank() == 0:
            atomic_write_text(self.log, "".join(canonical_json(record) + "\n" for record in training.records))

    def tell_epoch(self, training: Training) -> None:
        """Tell of the epoch that was saved last."""
        if ranks.rank() == 0:
            record = training.records[-1]
            self._callback.metrics(self._place, record["epoch"], record)

    def tell_history(self, training: Training, *, anew: bool) -> None:
        """Tell where the training stands, as it begins, goes on or goes back: its epochs so far."""
        if ranks.rank() == 0:
            self._callback.history(self._place, tuple(training.records), anew=anew)

    def tell_preparation(self, item: Prepared) -> None:
        """Tell how far the pruner's preparation is."""
        if ranks.rank() == 0:
            self._callback.progress(item.what, item.done, item.total, **item.numbers)

    def tell_return(self, training: Training, reason: str) -> None:
        """Tell that the training has gone back."""
        if ranks.rank() == 0:
            text = f"{reason}; it goes back to step {training.step} and on with {training.task!r}"
            self._callback.event(Event("returned", "train", self._place, text))
            self.tell_history(training, anew=False)

    def _read(self, folder: Path) -> State | None:
        return load_checkpoint(folder, self._training) if ranks.rank() == 0 else None

    def _restored(self, training: Training, state: State | None) -> bool:
        """Hand rank 0's state to all ranks: they need no file system in common."""
        # With one process the state needs no way through bytes, which for a large net costs a copy.
        content = None if state is None or ranks.world() == 1 else state_to_bytes(state)
        if (sent := ranks.shared(content, training.device)) is not None:
            state = state_from_bytes(sent)
        if state is None:
            return False
        try:
            training.restore(state)
        except KeyError as error:
            raise ArtifactError(
                f"the checkpoint of step {state.step} in {self._checkpoints} has no {error}: another version of this "
                "program began the training; finish it with that, or remove this folder to train anew"
            ) from error
        return True
