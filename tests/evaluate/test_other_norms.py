"""A run that was trained inside an ℓ∞ ball, attacked in ℓ2: from the command line to the report."""

import json

import numpy as np
import pytest

from robustdeploy.onboard.ball import outside
from robustdeploy.onboard.types import Threat

ATTACKS = "[fgsm, {name: pgd, steps: 5}, {name: square, queries: 20}]"


@pytest.mark.slow
def test_an_evaluation_in_l2_stands_beside_the_runs_own(desk, command):
    run, others = desk / "runs/tiny", {path.name for path in (desk / "runs/tiny/boards/pruned").iterdir()}
    refused = command(desk, "evaluate", "--target", "quick.yaml", "--set", "threat.norm=l2")
    assert refused.code != 0
    assert "--set 'evaluate.threat={norm: l2, eps: 0.5}'" in refused.err
    words = ["--set", "evaluate.threat={norm: l2, eps: 1.2}", "--set", f"evaluate.attacks={ATTACKS}"]
    done = command(desk, "evaluate", "--target", "quick.yaml", *words, "--limit", "40")
    assert done.code == 0, done.err
    (folder,) = (path for path in (run / "boards/pruned").iterdir() if path.name not in others)
    arrays = np.load(folder / "outcomes.npz")
    threat = Threat("l2", 1.2)
    for name in ("fgsm", "pgd-5", "square-20"):
        assert not outside(arrays["images"], arrays[f"{name}/images"], threat).any()
        # Far beyond what the training's box of 25 levels allows.
        assert np.abs(arrays["images"].astype(int) - arrays[f"{name}/images"]).max() > 25
    rows = json.loads((folder / "rows.json").read_text())
    radii = {row["conditions"]["eps"] for row in rows["measurements"] if row["metric"] == "robust_accuracy_at_eps"}
    assert radii == {1.2, 4.8}
    inside = next(check for check in rows["diagnostics"] if check["id"] == "inside-box")
    assert inside["text"] == "0 stored adversarial images leave the ℓ2 ball of eps 1.2 (integers compared)"
    target = folder.name.partition("@")[2]
    assert command(desk, "report", "--target", target).code == 0
    told = (run / f"report-{target}.md").read_text()
    assert "ℓ2 radius 1.2" in told
    assert "The attacks stay in an ℓ2 ball of eps 1.2; the net was trained for an ℓ∞ ball of eps 0.1." in told
    assert "ℓ2 ball of radius 1.2" in (run / f"report-{target}.html").read_text()
    assert command(desk, "verify").code == 0
    compared = command(desk, "compare", str(run / "report.json"), str(run / f"report-{target}.json"))
    assert "threat: eps 0.1 against l2 eps 1.2" in compared.out
