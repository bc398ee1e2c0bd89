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


@pytest.mark.slow
@pytest.mark.parametrize(("norm", "eps"), [("l2", 1.2), pytest.param("l1", 6.0, marks=pytest.mark.exhaustive)])
def test_the_whole_of_autoattack_runs_in_other_norms_with_a_row_for_each_part(norm, eps, desk, command):
    before = set((desk / "runs/tiny/boards/pruned").iterdir())
    words = ["--set", f"evaluate.threat={{norm: {norm}, eps: {eps}}}", "--set", "evaluate.eps_curve=[]"]
    words += ["--set", "evaluate.attacks=[{name: autoattack, steps: 4, targets: 2, queries: 20}]"]
    done = command(desk, "evaluate", "--target", "quick.yaml", *words, "--limit", "24")
    assert done.code == 0, done.err
    (folder,) = set((desk / "runs/tiny/boards/pruned").iterdir()) - before
    rows = json.loads((folder / "rows.json").read_text())["measurements"]
    robust = {
        row["attack"]: row["value"]
        for row in rows
        if (row["metric"], row["subject"]) == ("robust_accuracy", "pruned/fp32@quick")
    }
    whole, kinds = "autoattack-4-t2-20", ("apgd-4", "apgd-4-dlr-t2", "fab-4-t2", "square-20")
    parts = [robust[f"autoattack-{kind}"] for kind in kinds]
    assert parts == sorted(parts, reverse=True)
    assert robust[whole] == parts[-1] == robust["worst"]
    with np.load(folder / "outcomes.npz") as arrays:
        for kind in kinds:
            assert not outside(arrays["images"], arrays[f"autoattack-{kind}/images"], Threat(norm, eps)).any()
    target = folder.name.partition("@")[2]
    assert command(desk, "report", "--target", target).code == 0
    told = (desk / f"runs/tiny/report-{target}.md").read_text()
    assert all(f"autoattack-{kind}" in told for kind in kinds)
    # Too few images and steps for a verdict on robustness, which is then told and never a pass.
    assert "least strength" in told
