"""``robustdeploy verify``: check every file of a run against its manifests and the ledger, without torch."""

from __future__ import annotations

from robustdeploy.cli.options import RUNS, JsonOption, RunArgument, RunsOption


def verify(run: RunArgument = None, runs: RunsOption = RUNS, as_json: JsonOption = False) -> None:
    """Re-hash everything a run holds and check the ledger's chain; any difference is named and exits with 2."""
    from robustdeploy.cli.result import refuse, show
    from robustdeploy.core.run import Run
    from robustdeploy.core.verify import verify_run
    from robustdeploy.errors import ArtifactError

    root = Run.find(run, runs)
    problems = verify_run(root)
    document = {"run": str(root), "problems": problems}
    if problems:
        refuse(ArtifactError("\n".join(problems)), document, as_json)
    show(f"{root}: the ledger, every manifest and every output are as they were written", document, as_json)
