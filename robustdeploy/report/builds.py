"""How several builds of one net differ, as a diagnostic of the report: most compilers choose kernels by timing them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from robustdeploy.core.builds import built_for
from robustdeploy.core.report import Diagnostic, Measurement, SubjectEvidence
from robustdeploy.core.subject import Subject, subject_from
from robustdeploy.report.quantity import quantity

_TOLD = (
    ("latency_ms.p50", None, "median latency"),
    ("clean_accuracy", None, "clean accuracy"),
    ("robust_accuracy", "worst", "worst-case accuracy"),
    ("top1_agreement", None, "agreement with torch"),
)


def build_diagnostics(subjects: Sequence[SubjectEvidence], rows: Sequence[Measurement]) -> Iterator[Diagnostic]:
    """Say of each net that was built several times for one target how far the builds are apart.

    It blocks nothing: each build is a subject of its own, every rule is asked of each, and the worst decides.
    """
    groups: dict[str, list[SubjectEvidence]] = {}
    for each in subjects:
        its = subject_from(each.subject)
        if its.deployed and not each.lost:
            groups.setdefault(str(Subject(its.net, its.precision, built_for(its.place))), []).append(each)
    values = {(row.subject, row.metric, row.attack): row for row in rows}
    for name, builds in groups.items():
        if len(builds) > 1:
            yield _told(name, builds, values)


def _told(
    name: str, builds: Sequence[SubjectEvidence], rows: Mapping[tuple[str, str, str | None], Measurement]
) -> Diagnostic:
    parts = []
    for metric, attack, words in _TOLD:
        found = [row for each in builds if (row := rows.get((each.subject, metric, attack))) is not None]
        if found:
            low, high = (quantity(pick(row.value for row in found), found[0].unit) for pick in (min, max))
            parts.append(f"{words} {low}" if low == high else f"{words} {low} to {high}")
    engines = {each.sha256.get("engine") for each in builds}
    alike = "bit for bit the same" if len(engines) == 1 else f"{len(engines)} different files"
    return Diagnostic(
        id="builds-vary",
        level="ok",
        text=f"{len(builds)} builds of {name} are {alike}: {', '.join(parts)}; every rule is asked of each of them",
        value=len(engines),
        subject=name,
    )
