"""``robustdeploy verify``: check every file of a run against its manifests and the ledger, without torch."""

from __future__ import annotations

from robustdeploy.cli.options import RUNS, JsonOption, RunArgument, RunsOption
from robustdeploy.cli.result import refuse, show
from robustdeploy.engine.run import Run
from robustdeploy.engine.verify import verify_run
from robustdeploy.errors import ArtifactError


def verify(run: RunArgument = None, runs: RunsOption = RUNS, as_json: JsonOption = False) -> None:
    """Check a run's files against its ledger.

    Everything a run holds is hashed again; any difference is named, and the exit code is then 2.
    """
    root = Run.find(run, runs)
    problems = verify_run(root)
    document = {"run": str(root), "problems": problems}
    if problems:
        refuse(ArtifactError(*problems), document, as_json)
    show([f"{root}: the ledger, every manifest and every output are as they were written"], document, as_json)
