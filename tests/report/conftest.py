import base64
import io
import json
import math
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from robustdeploy.core.figures import Answers, Course, Epoch, Making, Past
from robustdeploy.core.gate import Rule
from robustdeploy.core.recipe import Threat
from robustdeploy.core.report import (
    BudgetLine,
    ChannelCount,
    Diagnostic,
    Figures,
    Histogram,
    Measurement,
    Report,
    Sample,
    SubjectEvidence,
)
from robustdeploy.engine.overview import Overview
from robustdeploy.evaluate.intervals import clopper_pearson
from robustdeploy.report.judge import judge
from robustdeploy.report.sides import Side

BOARD, HOST, DENSE = "pruned/fp32@jetson-orin", "pruned/fp32@torch", "dense/fp32@torch"
ATTACKS = {
    "fgsm": ("transfer", {"steps": 1, "alpha": 8 / 255}),
    "pgd-10": ("transfer", {"steps": 10, "restarts": 1, "alpha": 2 / 255}),
    "pgd-50-10": ("transfer", {"steps": 50, "restarts": 10, "alpha": 2 / 255}),
    "square-1000": ("query", {"queries": 1000, "p_init": 0.8}),
    "worst": ("worst", {}),
}


def share(metric, subject, correct, n=1000, **more):
    low, high = clopper_pearson(correct, n)
    return Measurement(
        metric=metric, subject=subject, value=correct / n, unit="fraction", n=n, low=low, high=high, **more
    )


def accuracy_rows():
    rows = [
        share("clean_accuracy", BOARD, 823),
        share("clean_accuracy", HOST, 824),
        share("clean_accuracy", DENSE, 851),
    ]
    kept = {
        "fgsm": (561, 563, 588),
        "pgd-10": (513, 514, 531),
        "pgd-50-10": (498, 499, 517),
        "square-1000": (545, 546, 570),
        "worst": (494, 495, 512),
    }
    for attack, (board, host, dense) in kept.items():
        kind, budget = ATTACKS[attack]
        rows.append(share("robust_accuracy", BOARD, board, attack=attack, kind=kind, conditions=budget))
        rows.append(share("robust_accuracy", HOST, host, attack=attack, kind=kind, conditions=budget))
        rows.append(share("robust_accuracy", DENSE, dense, attack=attack, kind=kind, conditions=budget))
    rows.append(
        Measurement(metric="attack_queries", subject=BOARD, attack="square-1000", value=412_873, unit="queries", n=1000)
    )
    return rows


def curve_rows():
    rows = []
    for subject, shift in ((HOST, 0), (BOARD, -1)):
        for multiple, correct in {0.25: 151, 0.5: 139, 1.0: 103, 1.5: 71, 2.0: 42, 4.0: 4}.items():
            conditions = {"eps": multiple * 8 / 255, "multiple": multiple}
            correct = correct + shift
            rows.append(
                share(
                    "robust_accuracy_at_eps",
                    subject,
                    correct,
                    200,
                    attack="pgd-10",
                    kind="transfer",
                    conditions=conditions,
                )
            )
    return rows


def query_rows():
    """What stood after so many queries, by an attack on scores and one on labels."""
    rows = []
    for attack, needs, correct in (
        ("square-1000", "scores", {10: 781, 100: 612, 1000: 545}),
        ("rays-300", "labels", {10: 799, 100: 640, 300: 588}),
    ):
        for queries, stood in correct.items():
            conditions = {"queries": queries, "device_s": queries / 50, "needs": needs}
            more = {"attack": attack, "kind": "query", "conditions": conditions}
            rows.append(share("robust_accuracy_after_queries", BOARD, stood, **more))
    return rows


def other_rows():
    timing = {"batch": 1, "runs": 5, "warmup_s": 0.2}
    percentiles = {"p50": (1.842, 1.838, 1.846), "p90": (1.97, 1.962, 1.981), "p99": (2.41, 2.36, 2.52)}
    rows = [
        Measurement(
            metric=f"latency_ms.{p}",
            subject=BOARD,
            value=v,
            unit="ms",
            n=7000,
            low=low,
            high=high,
            conditions=timing,
        )
        for p, (v, low, high) in percentiles.items()
    ]
    rows += [
        Measurement(metric="latency_ms.p99.9", subject=BOARD, value=3.62, unit="ms", n=7000, low=3.2, high=3.9),
        Measurement(metric="latency_ms.mean", subject=BOARD, value=1.871, unit="ms", n=7000),
        Measurement(metric="latency_ms.cv", subject=BOARD, value=0.0412, unit="fraction", n=7000),
        share("top1_agreement", BOARD, 999),
        share("top1_agreement", BOARD, 997, attack="pgd-50-10"),
        Measurement(metric="parity_max_abs", subject=HOST, value=3.1e-6, unit="logits", n=1000),
        Measurement(
            metric="ops_fraction", subject=BOARD, value=0.2981, unit="fraction", n=0, conditions={"exact": True}
        ),
        Measurement(metric="energy_mj", subject=BOARD, value=4.21, unit="mJ", n=20, low=4.1, high=4.3),
    ]
    return rows


def png(pixels):
    held = io.BytesIO()
    Image.fromarray(pixels).save(held, "PNG")
    return base64.b64encode(held.getvalue()).decode()


def samples():
    rng = np.random.default_rng(3)
    y, x = np.mgrid[0:32, 0:32]
    made = []
    for index, (attack, label, wrong) in enumerate(
        [("pgd-50-10", "ship", "truck"), ("square-1000", "frog", "deer"), ("fgsm", "horse", "horse")]
    ):
        wave = 110 + 70 * np.sin((x + 3 * index) / 5) * np.cos(y / (4 + index))
        clean = np.stack([wave, wave * 0.8 + 20, 255 - wave], axis=-1).clip(0, 255).astype(np.uint8)
        move = rng.integers(-8, 9, clean.shape)
        made.append(
            Sample(
                attack=attack,
                label=label,
                clean_prediction=label,
                adversarial_prediction=wrong,
                clean_png=png(clean),
                adversarial_png=png((clean + move).clip(0, 255).astype(np.uint8)),
                difference_png=png((127.5 + move * 127.5 / 8).astype(np.uint8)),
                why="among the smallest changes that fool it",
                change=0.52,
                clean_scores=(9.13, 9.13),
                adversarial_scores=(5.021, 4.2),
            )
        )
    return tuple(made)


def histogram():
    edges = tuple(1.7 + 0.05 * i for i in range(41))
    counts = [int(2400 * math.exp(-(((e - 1.84) / 0.09) ** 2))) for e in edges[:-1]]
    counts[18], counts[38] = 6, 2
    return Histogram(unit="ms", edges=edges, counts=tuple(counts))


def answers(worst):
    """Three classes of 300, 400 and 300 images; ``worst`` of each class stay right under attack."""
    sizes = (300, 400, 300)
    clean = [(i, i, n - 20) for i, n in enumerate(sizes)] + [(i, (i + 1) % 3, 20) for i in range(3)]
    attacked = [(i, i, kept) for i, kept in enumerate(worst)]
    attacked += [(i, (i + 1) % 3, n - kept) for i, (n, kept) in enumerate(zip(sizes, worst, strict=True))]
    return Answers(classes=("ship", "frog", "horse"), clean=tuple(clean), worst=tuple(attacked))


def course():
    epochs = [Epoch(epoch=i, loss=2 / i, ops=max(0.3, 1 - i / 20)) for i in range(1, 31)]
    epochs[9::10] = [e.model_copy(update={"clean": 0.6 + e.epoch / 150, "attacked": 0.4}) for e in epochs[9::10]]
    return Course(epochs=tuple(epochs), frozen=16, rollbacks=(22,))


HISTORY = (
    Past(name="one", began="2026-11-01T00:00:00+00:00", clean=0.81, worst=0.48, ops=0.299, p99_ms=2.6),
    Past(name="two", began="2026-11-09T00:00:00+00:00", clean=0.82, worst=0.485, ops=0.297, p99_ms=2.5),
)
MAKING = Making(
    recipe="cifar10-resnet20", net="resnet20, width 16", task="fastat", epochs=30, seconds=700, commit="a1" * 20
)
RULES = (
    Rule(id="RD-ROB-01", metric="robust_accuracy", attack="worst", at_least=0.45, n_at_least=1000, reason="Item 4.2"),
    Rule(id="RD-ACC-01", metric="clean_accuracy", at_least=0.8),
    Rule(id="RD-LAT-01", metric="latency_ms.p99", at_most=10),
    Rule(id="RD-OPS-01", metric="ops_fraction", at_most=0.3),
)
DIAGNOSTICS = (
    Diagnostic(id="query-beats-transfer", level="ok", text="The query attack fooled no image that PGD had not fooled."),
    Diagnostic(
        id="latency-drift",
        level="warn",
        text="The last third of the timing ran slower than the first.",
        value=0.013,
        threshold=0.01,
    ),
    Diagnostic(id="curve-reaches-zero", level="ok", text="Accuracy falls to 2 % at four times the radius.", value=0.02),
)


FACTS = {
    "status": "contract-tested",
    "system": "Linux 5.15.148-tegra aarch64",
    "backend": {"name": "onnxruntime", "version": "1.23.2"},
    "clocks": {"governor": "performance", "cpu_mhz": 2201.6, "moved": False},
    "throttling": [],
    "boot_id_same": True,
}


def make_report(rules=RULES, diagnostics=DIAGNOSTICS, rows=None, omissions=(), board=FACTS, subjects=None, **changes):
    rows = tuple(accuracy_rows() + curve_rows() + query_rows() + other_rows()) if rows is None else tuple(rows)
    if subjects is None:
        hashes = {name: f"{digit:x}" * 64 for digit, name in enumerate(("onnx", "engine", "agent"), 5)}
        deployed = SubjectEvidence(
            subject=BOARD, evaluation="boards/pruned/fp32@jetson-orin", sha256=hashes, board=board
        )
        subjects = (deployed, SubjectEvidence(subject=HOST), SubjectEvidence(subject=DENSE))
    layers = [("stem", 16, 16)] + [
        (f"layer{i}.{j}.conv{k}", 16 * i - 3 * j - k, 16 * i) for i in (1, 2, 3) for j in range(3) for k in (1, 2)
    ]
    fields = {
        "name": "cifar10-resnet20-ops30",
        "subjects": subjects,
        "created": "2026-11-20T14:02:11Z",
        "producer": "robustdeploy 0.1.0",
        "making": MAKING,
        "history": HISTORY,
        "data": {"name": "CIFAR-10", "split": "9f" * 32, "images": {"train": 45000, "validation": 5000, "test": 1000}},
        "sha256": {"recipe": "3" * 64, "net": "4" * 64},
        "threat": Threat(),
        "budget": BudgetLine(
            ops_target=0.3,
            dense_macs=40_550_000,
            macs=12_088_320,
            params=81_234,
            dense_params=269_722,
            counts=dict.fromkeys(["masks", "module", "onnx", "flop_counter"], 12_088_320),
        ),
        "measurements": rows,
        "diagnostics": diagnostics,
        "omissions": omissions,
        "figures": Figures(
            channels=tuple(ChannelCount(layer=n, kept=k, dense=d) for n, k, d in layers),
            latency={BOARD: histogram()},
            dense_latency={BOARD: histogram()},
            answers={BOARD: answers((150, 200, 144)), DENSE: answers((160, 210, 142))},
            course=course(),
            samples=samples(),
        ),
        "rules": rules,
        "verdict": judge(rows, diagnostics, rules, omissions, subjects),
    }
    return Report(**(fields | changes))


@pytest.fixture(name="make_report")
def _make_report():
    return make_report


@pytest.fixture
def report():
    return make_report()


@pytest.fixture
def some_runs():
    """Two runs of one recipe with reports, the newest first, and one that is still being trained."""
    one = Overview(
        name="one",
        folder="runs/one",
        state="reported",
        detail="",
        process=None,
        latest=False,
        targets=("host-cpu",),
        verdict="PASS",
        warnings=1,
        clean=0.95,
        worst=0.5,
        ops=0.3,
        p99_ms=2.0,
        updated="2026-11-02T00:00:00+00:00",
        began="2026-11-01T00:00:00+00:00",
        recipe="mine",
        protocol="digits, linf 0.1, 60 images",
    )
    two = replace(one, name="two", began="2026-11-03T00:00:00+00:00", verdict="FAIL", worst=0.4)
    other = replace(
        one, name="three", state="training", verdict=None, protocol=None, worst=None, targets=(), detail="epoch 3"
    )
    return [two, one, other]


ON_BOARD = "pruned/fp32@board"
PLANTED_PLACE = "boards/pruned/fp32@board"
PLANTED = 200


def bits_row(metric, bits, **more):
    low, high = clopper_pearson(int(bits.sum()), len(bits))
    more = {"conditions": {}, **more}
    return Measurement(
        metric=metric,
        subject=ON_BOARD,
        value=float(bits.mean()),
        unit="fraction",
        n=len(bits),
        low=low,
        high=high,
        **more,
    )


@pytest.fixture
def planted_side(tmp_path):
    """Make the evaluation of a run on three classes, outcomes by a seed: its side, and which images are right."""

    def make(name, seed=0, macs=100, quartile=1000, disturbed=False, **changes):
        rng = np.random.default_rng(seed)
        labels = np.arange(PLANTED) % 3
        clean = rng.random(PLANTED) < 0.9
        robust = clean & (rng.random(PLANTED) < 0.7)
        folder = tmp_path / name / PLANTED_PLACE
        folder.mkdir(parents=True)
        np.savez(
            folder / "outcomes.npz",
            ids=np.arange(PLANTED),
            images=np.zeros((PLANTED, 1, 2, 2), np.uint8),
            labels=labels,
            predictions=np.where(clean, labels, 3),
            **{"host/predictions": np.where(clean, labels, 3), "pgd-10/predictions": np.where(robust, labels, 3)},
        )
        times = [[quartile + 7 * run + call % 5 for call in range(30)] for run in range(8)]
        runs = [
            {
                "samples_ns": t,
                "starts_ns": list(range(30)),
                "period_ns": 0,
                "disturbance": "busy" if disturbed else None,
            }
            for t in times
        ]
        timings = {"taken": True, "flaws": [], "scenarios": {"single-stream": runs}}
        (folder / "timings.json").write_text(json.dumps(timings))
        rows = [
            bits_row("clean_accuracy", clean),
            bits_row("robust_accuracy", robust, attack="pgd-10", kind="transfer", conditions={"steps": 10}),
            bits_row("robust_accuracy", robust, attack="worst", kind="worst", conditions={"attacks": ["pgd-10"]}),
            *(bits_row("class_clean_accuracy", clean[labels == c], conditions={"class": str(c)}) for c in range(3)),
            bits_row("top1_agreement", np.ones(PLANTED, bool)),
            Measurement(metric="ops", subject=ON_BOARD, value=macs, unit="MACs", n=1, conditions={"exact": True}),
            Measurement(metric="latency_ms.p50", subject=ON_BOARD, value=1.0, unit="ms", n=240, low=0.9, high=1.1),
        ]
        fields = {
            "name": name,
            "rows": rows,
            "diagnostics": (),
            "subjects": (SubjectEvidence(subject=ON_BOARD, evaluation=PLANTED_PLACE, board={"cpu_model": "X"}),),
            "data": {"name": "three", "classes": ["0", "1", "2"]},
        }
        report = make_report(**(fields | changes))
        return Side(report, root=tmp_path / name, sha256="ab" * 32), clean, robust

    return make
