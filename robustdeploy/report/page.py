"""A page: a template filled in, as one HTML file that needs no script and no network."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.resources import files
from typing import Any

from markupsafe import Markup

from robustdeploy.foreign import sentence
from robustdeploy.onboard.types import SIGNS
from robustdeploy.report import quantity, svg
from robustdeploy.report.charts import trend_chart
from robustdeploy.report.words import conditions_text, time_text


def page(template: str, *, charts: Mapping[str, str], **content: Any) -> str:
    """Return ``template`` with ``content`` and the drawings in it; every other text is escaped."""
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
        "points": quantity.points,
        "eps": quantity.eps_text,
        "norm": SIGNS.__getitem__,
        "interval": quantity.interval,
        "samples": quantity.samples,
        "conditions": conditions_text,
        "time": time_text,
        "trend": lambda values: Markup(trend_chart(values)),
        "swatch": lambda style: Markup(svg.swatch(style)),
        "outcomes": lambda lines, outcome: [line for line in lines if line.outcome == outcome],
    }
    return environment.get_template(template).render(
        # The charts escape their own texts, and the style sheet is ours.
        charts={name: Markup(drawing) for name, drawing in charts.items()},
        style=Markup(here.joinpath("report.css").read_text(encoding="utf-8")),
        **content,
    )


def _shown(value: Any) -> Any:
    """Write out what does not show, of every text but the markup that is ours."""
    from jinja2 import Undefined

    return value if isinstance(value, Markup | Undefined) else sentence(str(value))
