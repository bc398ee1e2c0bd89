"""Going over the jobs: what is done is skipped, and one that fails does not stop the others."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from robustdeploy.series.place import Ended, Place
from robustdeploy.series.series import Job, Say, Series


def go(
    series: Series,
    jobs: Sequence[Job],
    place: Place,
    say: Say,
    each: Callable[[Mapping[str, Ended]], object],
    noun: str,
) -> dict[str, Ended]:
    """Make the runs of ``jobs`` that are not done yet, in ``place``; return how those ended that are not done then.

    ``each`` is called after each with those that failed so far, so that a long series can be looked at while it goes
    on; ``noun`` is what it is called.
    """
    left = [job for job in jobs if series.missing(job)]
    if done := len(jobs) - len(left):
        say(f"{noun}: {done} of {len(jobs)} runs are done already")
    failed = dict[str, Ended]()
    for job, ended in place.run(series, left, lambda words: say(f"{noun}: {words}")):
        # By its report and not by its code: a training that gave no sound net ends as an INCONCLUSIVE verdict does.
        if series.missing(job):
            failed[job.name] = ended
            say(f"{noun}: {job.name} failed: {ended.why}")
        each(failed)
    return failed
