"""Training speed: our loop, dense and under masks, beside a plain FastAT loop, taking turns on one machine.

    python benchmarks/training.py --data data/cifar10
    python benchmarks/training.py --device cuda --json

Four trainings take turns, a few steps each, for several rounds: the reference (reference.py), our dense FastAT, our
in-train pruning while its masks are trained, and the same after the net was made smaller. The figure of a training is
the median over its rounds, a ratio is the median of the rounds' own ratios, so that whatever else the machine does
hits both sides alike. ``--whole`` also runs the dense and the pruned training from their first to their last line.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import machine
import torch
from pictures import pictures
from setting import Setting
from speeds import by_turns, whole_trainings

from robustdeploy.core.asked import recipe_for
from robustdeploy.errors import RobustdeployError
from robustdeploy.train.precision import resolved
from robustdeploy.train.setup import device_from

RECIPE = "cifar10-resnet20"


def main(words: Sequence[str] | None = None) -> int:
    """Measure as the command line asks, print the result, and return the exit code."""
    options = _options(words)
    if options.threads is not None:
        torch.set_num_threads(options.threads)
    try:
        report = measured(options)
    except RobustdeployError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    print(json.dumps(report, indent=2) if options.json else in_words(report))
    return 0


def _options(words: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--data", type=Path, help="folder of CIFAR-10; random images of its shape when left out")
    parser.add_argument("--images", type=_count, help="training images to use, at most")
    parser.add_argument("--net", help="net of the recipe instead of resnet20")
    parser.add_argument("--ops", type=float, default=0.3, help="operations that the pruned training keeps")
    parser.add_argument("--batch-size", type=_count, default=128)
    parser.add_argument("--steps", type=_count, default=10, help="timed steps of a turn")
    parser.add_argument("--rounds", type=_count, default=5, help="turns of each training")
    parser.add_argument("--precision", choices=("auto", "fp32", "bf16"), default="auto", help="of our loop")
    parser.add_argument("--threads", type=_count, help="threads of torch; its own choice when left out")
    parser.add_argument("--workers", type=int, default=2, help="processes that prepare the reference's images")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--whole", type=_count, metavar="EPOCHS", help="also time whole trainings of so many epochs")
    parser.add_argument("--json", action="store_true")
    return parser.parse_args(words)


def _count(text: str) -> int:
    if (number := int(text)) < 1:
        raise argparse.ArgumentTypeError(f"must be at least 1, not {text}")
    return number


def measured(options: argparse.Namespace) -> dict[str, Any]:
    """Run everything and return the report as JSON values."""
    chosen = {
        "net": options.net,
        "budget.ops": options.ops,
        "train.batch_size": options.batch_size,
        "train.precision": options.precision,
        "train.device": options.device,
    }
    recipe = recipe_for(RECIPE, overrides=[f"{field}={value}" for field, value in chosen.items() if value is not None])
    device = device_from(recipe.train.device)
    before = machine.load_average()
    data = pictures(options.data, options.images)
    with tempfile.TemporaryDirectory() as folder:
        setting = Setting(recipe, data, device, Path(folder), options.workers, options.threads)
        report = by_turns(setting, options.rounds, options.steps)
        if options.whole is not None:
            report["whole"] = whole_trainings(setting, options.whole, options.steps)
    conditions = {
        **machine.description(device),
        "load_before": before,
        "load_after": machine.load_average(),
        "net": recipe.net.name,
        "images": data.name,
        "batch_size": options.batch_size,
        "precision": str(resolved(recipe.train.precision, device)).removeprefix("torch."),
        "reference_workers": options.workers,
        "rounds": options.rounds,
        "steps_per_round": options.steps,
        "n": options.rounds * options.steps * options.batch_size,
    }
    return {"conditions": conditions, **report}


def in_words(report: Mapping[str, Any]) -> str:
    """Return the report as text for a terminal."""
    given = report["conditions"]
    lines = [
        machine.in_words(given),
        f"{given['net']}, {given['precision']} (reference: float32, {given['reference_workers']} loader processes), "
        f"batches of {given['batch_size']} of {given['images']}",
        f"{given['rounds']} rounds of {given['steps_per_round']} steps each, n = {given['n']:,} images per training; "
        f"load average {given['load_before']} before, {given['load_after']} after",
        "",
        f"{'images per second':<45} {'median':>9} {'lowest':>9} {'highest':>9}",
    ]
    for name, of in report["images_per_s"].items():
        lines.append(f"{name:<45} {of['median']:>9,.0f} {of['lowest']:>9,.0f} {of['highest']:>9,.0f}")
    lines += ["", f"{'ratio, per round':<45} {'median':>9} {'lowest':>9} {'highest':>9}"]
    lines += [_ratio_in_words(ratio) for ratio in report["ratios"]]
    lines.append(f"masks are trained for {report['masks_share']:.0%} of a pruned training's steps")
    if (timed := report.get("whole")) is not None:
        parts = ", ".join(f"{name} {seconds:,.0f} s" for name, seconds in timed["seconds"].items())
        lines += ["", f"whole trainings of {timed['epochs']} epochs of {timed['images']:,} images: {parts}"]
        lines.append(_ratio_in_words(timed["ratio"]))
    return "\n".join(lines)


def _ratio_in_words(ratio: Mapping[str, Any]) -> str:
    low, high = min(ratio["values"]), max(ratio["values"])
    text = f"{ratio['name']:<45} {ratio['value']:>9.3f} {low:>9.3f} {high:>9.3f}"
    for bound, sign in (("at_least", "≥"), ("at_most", "≤")):
        if ratio[bound] is not None:
            text += f"   wanted {sign} {ratio[bound]}: {'yes' if ratio['meets'] else 'NO'}"
    return text


if __name__ == "__main__":
    sys.exit(main())
