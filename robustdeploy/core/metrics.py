"""Metrics: the closed list of what a row can measure, with its unit, its range and where it exists."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Final, Literal

Place = Literal["torch", "target"]
"""The host's reference, or wherever a net is deployed."""
Support = Literal["images", "replays", "curve", "distances", "features", "patches", "corruptions", "samples", "count"]
_BOTH: Final[tuple[Place, ...]] = ("torch", "target")
_DEPLOYED: Final[tuple[Place, ...]] = ("target",)
_SHARE = "fraction"


@dataclass(frozen=True)
class Metric:
    """One kind of row."""

    name: str
    unit: str
    meaning: str
    """One line, for people."""
    higher_is_better: bool | None = None
    """None where neither end is the better one."""
    places: tuple[Place, ...] = ("target",)
    attacked: Literal["never", "maybe", "always"] = "never"
    """Whether its rows name an attack: ``maybe`` has rows with and rows without."""
    worst: bool = False
    """Whether there is a row under ``worst``, the worst case over all attacks."""
    by_attack: bool = True
    """Whether there is a row for each attack by itself, beside that under ``worst``."""
    queried: bool = False
    """Whether its rows are of query attacks alone."""
    found_by: str = ""
    """The kind of attacks that its rows are of alone; empty where any will do."""
    by_class: bool = False
    """Whether there is a row for each class."""
    low: float = 0.0
    high: float = math.inf
    limited_by: Literal["ops", "params", "memory"] | None = None
    """The limit of the budget that bounds it, so that a rule may say ``at_most: budget``."""
    support: Support = "images"
    """What a row's ``n`` counts: test images, those with a replay, those of the curve, those of which a distance was
    found, those whose latent features were looked at, those with a patch, those that were corrupted, timed runs;
    ``count``: counted exactly, n is 1."""
    bounded: bool = True
    """Whether its rows have an interval, or need none because they are exact."""

    @property
    def is_share(self) -> bool:
        """Whether it is a fraction of one whole, from 0 to 1."""
        return self.unit == _SHARE and self.high == 1


def _accuracy(name: str, meaning: str, places: tuple[Place, ...] = _BOTH) -> Metric:
    return Metric(name, _SHARE, meaning, higher_is_better=True, places=places, high=1)


def _robust(name: str, meaning: str, places: tuple[Place, ...] = _BOTH) -> Metric:
    return Metric(name, _SHARE, meaning, True, places, "always", worst=True, high=1)


def _worst(name: str, meaning: str) -> Metric:
    return replace(_robust(name, meaning, _DEPLOYED), by_attack=False)


def _cost(name: str, unit: str, meaning: str, limited_by: Literal["ops", "params", "memory"]) -> Metric:
    return Metric(name, unit, meaning, higher_is_better=False, low=1, limited_by=limited_by, support="count")


def _cost_share(name: str, meaning: str, limited_by: Literal["ops", "params", "memory"]) -> Metric:
    return Metric(name, _SHARE, meaning, higher_is_better=False, high=1, limited_by=limited_by, support="count")


def _timed(name: str, meaning: str, unit: str = "ms") -> Metric:
    return Metric(name, unit, meaning, higher_is_better=False, support="samples")


def _late(name: str, meaning: str) -> Metric:
    return Metric(name, _SHARE, meaning, higher_is_better=False, high=1, support="samples")


def _distance(name: str, unit: str, meaning: str) -> Metric:
    return Metric(name, unit, meaning, True, ("torch",), "always", support="distances")


AFTER_QUERIES: Final = "robust_accuracy_after_queries"
BY_CLOCK: Final = frozenset({"device_s"})
"""Conditions of rows that a clock decides, so that two measurements of one engine differ in them."""
"""Its rows differ by the `queries` in their conditions, which to other metrics are an attack's option."""

# A closed list: a rule on a misspelt metric would find no row, and only after the training.
_ALL = (
    _accuracy("clean_accuracy", "share of test images labelled right"),
    _robust("robust_accuracy", "share right as they are and under `attack`; `worst` is per image over all attacks"),
    _accuracy("balanced_clean_accuracy", "mean of the classes' clean accuracies, each class counting alike", _DEPLOYED),
    _worst("balanced_robust_accuracy", "mean of the classes' robust accuracies under `worst`"),
    Metric("majority_baseline", _SHARE, "share of the largest class, which a constant answer reaches", high=1),
    replace(
        _accuracy("class_clean_accuracy", "clean accuracy of a class; without `class_name` a rule asks all", _DEPLOYED),
        by_class=True,
    ),
    replace(
        _worst("class_robust_accuracy", "robust accuracy of one class under `worst`, in the same way"), by_class=True
    ),
    Metric(
        "replayed_accuracy",
        _SHARE,
        "share right, as they are and under each replay, of the images that have one",
        higher_is_better=True,
        places=_BOTH,
        attacked="always",
        found_by="replay",
        support="replays",
        high=1,
    ),
    # No side is the better one: it should be high at the threat's own radius and vanish at several times that.
    Metric(
        "robust_accuracy_at_eps",
        _SHARE,
        "share right under PGD-10 at the `eps` in its conditions, on the first `evaluate.curve_limit` images",
        places=_BOTH,
        attacked="always",
        high=1,
        support="curve",
    ),
    _distance("r2_deepfool", "l2", "mean distance to the nearest wrong image by DeepFool, of images labelled right"),
    _distance("r2_cw", "l2", "the same by the attack of Carlini and Wagner"),
    _distance("r2_fmn", "l2", "the same by the fast minimum-norm attack"),
    _distance("rinf_fmn", "linf", "the same in the largest change of a pixel, by that attack"),
    _distance("r1_fmn", "l1", "the same in the sum of all changes, by that attack"),
    _distance("clever_l2", "l2", "mean estimate of the distance that no attack goes below, of images labelled right"),
    _distance("clever_linf", "linf", "the same in the largest change of a pixel"),
    _distance("r2", "l2", "mean distance by a search of another package, which `attack` names"),
    Metric(
        "vulnerability",
        "change",
        "mean change of latent features by `attack`, of each layer and then of all; in the features' own unit",
        higher_is_better=False,
        places=("torch",),
        attacked="always",
        support="features",
    ),
    Metric(
        "patch_accuracy",
        _SHARE,
        "share right as they are and with a square of the image filled by the patch attack that `attack` names",
        True,
        _BOTH,
        "always",
        high=1,
        support="patches",
    ),
    Metric(
        "accuracy_corrupted",
        _SHARE,
        "share right under a corruption at a severity, which `attack` names: `fog-3`; without it a rule asks all",
        True,
        _BOTH,
        "always",
        high=1,
        support="corruptions",
    ),
    Metric(
        "mean_corruption_accuracy",
        _SHARE,
        "its mean over all; with `attack` over one corruption, `fog`, or over one severity, `severity-3`",
        True,
        _BOTH,
        "maybe",
        high=1,
        support="corruptions",
    ),
    Metric(
        "worst_corruption_accuracy",
        _SHARE,
        "the mean over severities of the corruption where that is lowest, which its conditions name",
        True,
        _BOTH,
        high=1,
        support="corruptions",
    ),
    Metric(
        "mean_corruption_error",
        "of the dense net's",
        "mCE: the error over all severities of a corruption, divided by the dense net's; mean over corruptions",
        False,
        _BOTH,
        support="corruptions",
    ),
    Metric(
        "top1_agreement",
        _SHARE,
        "share of images that the target and torch label alike; with `attack`, of that attack's images",
        higher_is_better=True,
        attacked="maybe",
        high=1,
    ),
    Metric(
        "divergence",
        _SHARE,
        "share of images near which `attack` found one that torch labels right and the target wrong",
        higher_is_better=False,
        attacked="always",
        found_by="divergence",
        high=1,
    ),
    Metric(
        AFTER_QUERIES,
        _SHARE,
        "share right after the `queries` per image in its conditions, which took the engine `device_s` in all",
        higher_is_better=True,
        attacked="always",
        queried=True,
        high=1,
    ),
    Metric(
        "attack_queries",
        "queries per image",
        "mean spent by a query attack",
        attacked="always",
        queried=True,
        bounded=False,
    ),
    Metric(
        "parity_max_abs",
        "logits",
        "largest difference between torch and ONNX Runtime",
        False,
        ("torch",),
        bounded=False,
    ),
    _cost("ops", "MACs", "MACs of the compact net; counted, not sampled, as are the costs below", "ops"),
    _cost_share("ops_fraction", "`ops` over the dense net's", "ops"),
    _cost("params", "params", "parameters of the compact net", "params"),
    _cost_share("params_fraction", "`params` over the dense net's", "params"),
    Metric(
        "units_fraction",
        _SHARE,
        "channels and hidden units left, over the dense net's; those of the last layer are not counted",
        higher_is_better=False,
        high=1,
        support="count",
    ),
    _cost(
        "activation_memory",
        "bytes",
        "peak activation memory of the compact net; missing where the net cannot be traced",
        "memory",
    ),
    _cost_share("activation_memory_fraction", "`activation_memory` over the dense net's", "memory"),
    _cost_share(
        "nonzero_ops_fraction",
        "MACs by weights other than 0 over the dense net's MACs, where masked weights are 0; a dense runtime executes "
        "all MACs all the same",
        "ops",
    ),
    _cost_share(
        "nonzero_params_fraction",
        "parameters beside the zeros among the layers' weights, over the dense net's",
        "params",
    ),
    _timed("latency_ms.p50", "median latency, each batch following the one before at once"),
    _timed("latency_ms.p90", "90th percentile, where the samples support it"),
    _timed("latency_ms.p99", "99th percentile, where the samples support it"),
    _timed("latency_ms.p99.9", "99.9th percentile, where the samples support it"),
    _timed("latency_ms.mean", "mean of the samples of all runs"),
    Metric(
        "latency_fraction",
        _SHARE,
        "median time over the dense net's on the same target and in the same precision, their runs taking turns",
        False,
        support="samples",
    ),
    Metric(
        "latency_ms.cv",
        _SHARE,
        "standard deviation of the samples over their mean",
        False,
        support="samples",
        bounded=False,
    ),
    _timed("response_ms.p50", "paced: median time from the moment a batch is due to its scores"),
    _timed("response_ms.p90", "paced: its 90th percentile, where the samples support it"),
    _timed("response_ms.p99", "paced: its 99th percentile, where the samples support it"),
    _timed("response_ms.p99.9", "paced: its 99.9th percentile, where the samples support it"),
    _timed("response_ms.mean", "paced: its mean"),
    _late(
        "deadline_miss_fraction", "paced: share of batches that were done later than `deadline_ms` after they were due"
    ),
    _late("overrun_fraction", "paced: share of batches that were due while the engine was busy with one before"),
    Metric(
        "throughput_images_s",
        "images/s",
        "offline: images per second in batches of `latency.batch`",
        higher_is_better=True,
        support="samples",
    ),
    _timed("load_ms", "loading toolchain and engine in a fresh process"),
    _timed("first_inference_ms", "first call of a freshly loaded engine"),
    _timed("host_to_device_ms", "median copy of a batch to the device, where the backend tells it apart"),
    _timed("compute_ms", "median computation of a batch, where the backend tells it apart"),
    _timed("device_to_host_ms", "median copy of the scores back, where the backend tells it apart"),
    _timed("peak_memory_mib", "most memory that the engine's process held, Python and toolchain included", "MiB"),
    _timed("energy_mj", "energy of an image, where a rail of the board can be read", "mJ"),
    Metric(
        "checks_skipped", "checks", "checks of the evaluation that were switched off; counted", False, support="count"
    ),
)

LATENCY_FRACTION: Final = "latency_fraction"

METRICS: Final[Mapping[str, Metric]] = {metric.name: metric for metric in _ALL}
"""Every metric by its name, in the order of the documentation."""

ROBUST_METRICS: Final = tuple(name for name in METRICS if "robust" in name or name == "patch_accuracy")
"""What a weak attack flatters."""
