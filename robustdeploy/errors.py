"""Every error a user can meet, and the exit code it ends in.

RobustdeployError
├── UsageError             2    what was asked for is wrong: an option, a recipe, a target, a file
│   ├── RecipeError        2    problems in a YAML file or an override, all of them at once
│   ├── DataError          2    a data set that is missing, unreadable or of other classes
│   ├── BudgetError        2    a budget that no choice of channels can meet
│   └── ArtifactError      2    a file that is not what its manifest says, or not of its kind
├── TrainingError          3    training could not give a sound net (a non-finite value, a failed proof)
├── EnvironmentFailure     4    the surroundings failed, not the request
│   ├── ToolchainError     4    a toolchain is missing or too old
│   ├── BoardError         4    a board is unreachable, silent or answered with an error
│   │   ├── BoardLostError 4    a connection was lost and could not be made anew
│   │   └── WireError      4    a message is truncated, oversized or not ours
│   └── StorageError       4    the disk is full, read-only or the run is in use
└── Interrupted        130/143  a signal ended the work; it resumes where it stopped

A message says what was asked, what was found and what to do. This file also runs on boards (Python 3.10).
"""

from .foreign import sentence

TOLD_IN = "ROBUSTDEPLOY_TOLD_IN"
"""Environment variable: a file that a command writes its error to, for the one that started it."""


class RobustdeployError(Exception):
    """Root of the tree; its message is meant for the user and needs no traceback.

    Each argument is one line of the message. Foreign words in it can neither begin a line of their own nor steer a
    terminal.
    """

    exit_code = 1

    def __init__(self, *lines: object) -> None:
        super().__init__(*map(sentence, lines))

    def __str__(self) -> str:
        return "\n".join(self.args)


class UsageError(RobustdeployError):
    """What was asked for is wrong."""

    exit_code = 2


class RecipeError(UsageError):
    """A recipe, a target or an override has problems; the message lists all of them."""


class DataError(UsageError):
    """A data set is missing, unreadable, or has other classes than the net."""


class BudgetError(UsageError):
    """No choice of channels meets the budget; the message names the nearest that can be reached."""


class ArtifactError(UsageError):
    """A file is truncated, edited, or not of the kind that was expected."""


class TrainingError(RobustdeployError):
    """Training could not give a sound net."""

    exit_code = 3


class EnvironmentFailure(RobustdeployError):
    """The surroundings failed; the same request may succeed once they are mended."""

    exit_code = 4


class ToolchainError(EnvironmentFailure):
    """A toolchain is missing or of an unsupported version; the message names the fix."""


class BoardError(EnvironmentFailure):
    """A board is unreachable, went silent, or answered with an error."""


class BoardLostError(BoardError):
    """A board's connection was lost and could not be made anew; another board may take its work."""


class WireError(BoardError):
    """A message on the pipe is truncated, oversized or not one of ours."""


class StorageError(EnvironmentFailure):
    """The disk is full or read-only, or another process holds the run."""


class Interrupted(RobustdeployError):
    """A signal ended the work at a safe point; the same command resumes it."""

    def __init__(self, signal_number: int) -> None:
        super().__init__(f"interrupted by signal {signal_number}; the same command resumes where this stopped")
        self.exit_code = 128 + signal_number
