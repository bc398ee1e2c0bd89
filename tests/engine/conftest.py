"""A chain of tiny stages, for what the engine does with any of them."""

from dataclasses import dataclass, field

import pytest

from robustdeploy.core.recipe import Budget, Recipe
from robustdeploy.core.records import Record
from robustdeploy.engine.run import Run
from robustdeploy.engine.stage import Need


class Sum(Record):
    """What an ``Add`` came to."""

    total: int


@dataclass(frozen=True)
class Add:
    """Adds a number to what the stages before it came to, and writes the sum to a file."""

    place: str
    value: int = 1
    before: tuple = ()
    read: tuple = ()
    """Of ``inputs``: what it reads besides."""
    name: str = "add"
    record: type[Sum] = Sum
    ran: list = field(default_factory=list, compare=False)
    """What it found in its folder, each time that it ran."""
    fails: Exception | None = None

    @property
    def needs(self):
        return tuple(Need(stage, ("sum",)) for stage in self.before)

    @property
    def settings(self):
        return {"add": {"value": self.value}}

    def inputs(self):
        return dict(self.read)

    def run(self, work):
        self.ran.append(sorted(path.name for path in work.folder.iterdir()))
        (work.folder / "half").write_text("begun")
        if self.fails:
            raise self.fails
        total = self.value + sum(work.of(stage).record.total for stage in self.before)
        (work.folder / "sum").write_text(str(total))
        (work.folder / "half").unlink()
        work.keep("sum")
        return Sum(total=total)


@dataclass(frozen=True)
class Tied(Add):
    """An ``Add`` whose result fits only while ``device`` says the same."""

    device: list = field(default_factory=lambda: ["a"], compare=False)
    looked: list = field(default_factory=list, compare=False)

    def misfit(self, done):
        self.looked.append(done.record.total)
        return "" if self.device == ["a"] else f"the device is {self.device[0]} now"


@pytest.fixture
def add():
    return Add


@pytest.fixture
def tied():
    return Tied


@pytest.fixture
def engine_run(tmp_path):
    return Run.for_recipe(tmp_path / "runs", Recipe(name="tiny", budget=Budget(ops=0.5)))
