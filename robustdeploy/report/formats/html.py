"""HTML: one file that needs no script and no network, to read, to print and to keep as evidence."""

from __future__ import annotations

from dataclasses import dataclass

from markupsafe import Markup

from robustdeploy.core.report import Figures, Report
from robustdeploy.report import charts, evidence, nonzero
from robustdeploy.report.classes import class_views
from robustdeploy.report.course_chart import course_chart
from robustdeploy.report.latency_chart import latency_chart
from robustdeploy.report.layer_times import HEAD, LAYERS_NOTE, layer_rows
from robustdeploy.report.page import page
from robustdeploy.report.scale import radius_texts
from robustdeploy.report.steps import chain_of
from robustdeploy.report.story import facts_of, limits_of_validity
from robustdeploy.report.tiles import limits_of, tiles_of
from robustdeploy.report.together import FEW, steps_of, verdict_lines


@dataclass(frozen=True)
class Html:
    """The page for people."""

    filename: str = "report.html"

    def __call__(self, report: Report) -> str:
        """Return the page; every text of the report is escaped."""
        rows, figures, limits = evidence.evidence_from(report), report.figures, limits_of(report)
        styles = charts.styles_of(rows.subjects)
        texts, unit = radius_texts([radius.eps for radius in rows.radii])
        views = tuple(class_views(report))
        subjects = tuple(each.subject for each in report.deployed)
        chains = {subject: steps for subject in subjects if (steps := chain_of(report, subject))}
        return page(
            "report.html.j2",
            report=report,
            facts=tuple(facts_of(report)),
            tiles=tiles_of(report),
            evidence=rows,
            rules={rule.id: rule for rule in report.rules},
            caveats=evidence.caveats(report),
            boards={each.subject: evidence.timing_facts(evidence.flat(each.board)) for each in report.deployed},
            styles={**charts.styles_of([curve.subject for curve in rows.query_curves]), **styles},
            limits=limits,
            axis_begins=charts.accuracy_axis(rows.accuracy, limits)[0] if rows.accuracy else 0.0,
            radius_texts=texts,
            radius_unit=unit,
            class_views=views,
            steps=steps_of(chains),
            chained=", ".join(chains),
            told=verdict_lines(report.verdict, subjects),
            few_warnings=len(report.verdict.warnings) <= FEW,
            subjects=subjects,
            latencies=_latencies(figures, rows),
            layers={subject: layer_rows(report, subject) for subject in figures.layer_times},
            layers_head=HEAD,
            layers_note=LAYERS_NOTE,
            data=evidence.flat(report.data),
            queries_note=evidence.QUERIES_NOTE,
            seconds_note=evidence.SECONDS_NOTE,
            distances_note=evidence.DISTANCES_NOTE,
            patches_note=evidence.PATCHES_NOTE,
            corruptions_note=evidence.CORRUPTIONS_NOTE,
            zeros=nonzero.nonzero_note(report),
            validity=limits_of_validity(report),
            conditions=evidence.shared_conditions(rows.percentiles or rows.latency),
            charts={
                "accuracy": charts.accuracy_chart(rows.accuracy, styles, limits),
                "curve": charts.curve_chart(rows.curves, report.threat.eps, styles),
                "queries": charts.queries_chart(rows.query_curves),
                "severities": charts.severities_chart(rows.severities, styles),
                "budget": charts.budget_chart(report.budget),
                "course": course_chart(figures.course, report.budget.ops_target),
            },
            class_charts=[Markup(charts.class_chart(view.pairs, "s1", "s3")) for view in views],
        )


def _latencies(figures: Figures, rows: evidence.Evidence) -> dict[str, Markup]:
    """Draw each subject's times, with its percentiles and the dense net's times below."""
    drawn = {}
    for number, (subject, histogram) in enumerate(figures.latency.items()):
        calls, dense = evidence.calls_of(subject, rows.percentiles), figures.dense_latency.get(subject)
        drawn[subject] = Markup(latency_chart(f"latency-chart-{number}", subject, histogram, calls, dense))
    return drawn


plugin = Html
