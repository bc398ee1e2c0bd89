"""HTML: one file that needs no script and no network, to read, to print and to keep as evidence."""

from __future__ import annotations

from dataclasses import dataclass

from markupsafe import Markup

from robustdeploy.core.report import Report
from robustdeploy.report import charts, evidence, nonzero
from robustdeploy.report.layer_times import HEAD, LAYERS_NOTE, layer_rows
from robustdeploy.report.page import page


@dataclass(frozen=True)
class Html:
    """The page for people."""

    filename: str = "report.html"

    def __call__(self, report: Report) -> str:
        """Return the page; every text of the report is escaped."""
        sorted_rows = evidence.evidence_from(report)
        styles = charts.styles_of(sorted_rows.subjects)
        boards = {each.subject: evidence.timing_facts(evidence.flat(each.board)) for each in report.deployed}
        return page(
            "report.html.j2",
            report=report,
            evidence=sorted_rows,
            rules={rule.id: rule for rule in report.rules},
            caveats=evidence.caveats(report),
            boards=boards,
            styles={**charts.styles_of([curve.subject for curve in sorted_rows.query_curves]), **styles},
            latencies={
                subject: Markup(charts.latency_chart(histogram, evidence.calls_of(subject, sorted_rows.percentiles)))
                for subject, histogram in report.figures.latency.items()
            },
            layers={subject: layer_rows(report, subject) for subject in report.figures.layer_times},
            layers_head=HEAD,
            layers_note=LAYERS_NOTE,
            data=evidence.flat(report.data),
            queries_note=evidence.QUERIES_NOTE,
            distances_note=evidence.DISTANCES_NOTE,
            patches_note=evidence.PATCHES_NOTE,
            corruptions_note=evidence.CORRUPTIONS_NOTE,
            zeros=nonzero.nonzero_note(report),
            conditions=evidence.shared_conditions(sorted_rows.percentiles + sorted_rows.latency),
            charts={
                "accuracy": charts.accuracy_chart(sorted_rows.accuracy, styles),
                "curve": charts.curve_chart(sorted_rows.curves, report.threat.eps, styles),
                "queries": charts.queries_chart(sorted_rows.query_curves),
                "severities": charts.severities_chart(sorted_rows.severities, styles),
                "budget": charts.budget_chart(report.budget),
            },
        )


plugin = Html
