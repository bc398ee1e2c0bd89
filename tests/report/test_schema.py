import json
from importlib.resources import files

from robustdeploy.core.schema import schema_of


def test_the_shipped_schema_is_the_reports_own():
    shipped = files("robustdeploy.report").joinpath("report.schema.json").read_text(encoding="utf-8")
    assert json.loads(shipped) == schema_of("report"), "write it again: robustdeploy schema report"
