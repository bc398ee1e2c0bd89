"""HTML: one file that needs no script and no network, to read, to print and to keep as evidence."""

from __future__ import annotations

from dataclasses import dataclass
from importlib.resources import files
from typing import Any

from markupsafe import Markup

from robustdeploy.core.report import Report
from robustdeploy.foreign import sentence
from robustdeploy.report import charts, evidence, nonzero, quantity, svg


@dataclass(frozen=True)
class Html:
    """The page for people."""

    filename: str = "report.html"

    def __call__(self, report: Report) -> str:
        """Return the page; every text of the report is escaped."""
        sorted_rows = evidence.evidence_from(report)
        styles = charts.styles_of(sorted_rows.subjects)
        boards = {each.subject: evidence.timing_facts(evidence.flat(each.board)) for each in report.deployed}
        return _page(
            report=report,
            evidence=sorted_rows,
            rules={rule.id: rule for rule in report.rules},
            caveats=evidence.caveats(report),
            boards=boards,
            styles=styles,
            latencies={
                subject: Markup(charts.latency_chart(histogram, _of(subject, sorted_rows.percentiles)))
                for subject, histogram in report.figures.latency.items()
            },
            data=evidence.flat(report.data),
            zeros=nonzero.nonzero_note(report),
            conditions=evidence.shared_conditions(sorted_rows.percentiles + sorted_rows.latency),
            charts={
                "accuracy": charts.accuracy_chart(sorted_rows.accuracy, styles),
                "curve": charts.curve_chart(sorted_rows.curves, report.threat.eps, styles),
                "budget": charts.budget_chart(report.budget),
            },
        )


def _of(subject: str, rows: evidence.Rows) -> evidence.Rows:
    return tuple(row for row in rows if row.subject == subject)


def _shown(value: Any) -> Any:
    """Write out what does not show, of every text but the markup that is ours."""
    from jinja2 import Undefined
    from markupsafe import Markup

    return value if isinstance(value, Markup | Undefined) else sentence(str(value))


def _page(**content: Any) -> str:
    from jinja2 import Environment, FunctionLoader, StrictUndefined

    here = files("robustdeploy.report.formats")
    environment = Environment(
        loader=FunctionLoader(lambda name: here.joinpath(name).read_text(encoding="utf-8")),
        autoescape=True,
        # Escaping makes text safe as HTML; characters that do not show still deceive whoever reads it.
        finalize=_shown,
        # jinja2 otherwise prints nothing for a misspelt name, and a number would be missing unseen.
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "quantity": quantity.quantity,
        "number": quantity.number,
        "eps": quantity.eps_text,
        "interval": quantity.interval,
        "samples": quantity.samples,
        "conditions": evidence.conditions_text,
        "swatch": lambda style: Markup(svg.swatch(style)),
        "outcomes": lambda lines, outcome: [line for line in lines if line.outcome == outcome],
    }
    # The charts escape their own texts, and the style sheet is ours.
    content["charts"] = {name: Markup(drawing) for name, drawing in content["charts"].items()}
    content["style"] = Markup(here.joinpath("report.css").read_text(encoding="utf-8"))
    return environment.get_template("report.html.j2").render(**content)


plugin = Html
