"""What a precision below float32 costs, and whether what gradients find on its torch twin tells of the file."""

from __future__ import annotations

from collections.abc import Iterator

from robustdeploy.core.metrics import ROBUST_METRICS
from robustdeploy.core.records import OnnxRecord
from robustdeploy.core.report import Diagnostic
from robustdeploy.export.precision.protocol import Limits


def precision_diagnostics(exported: OnnxRecord, limits: Limits) -> Iterator[Diagnostic]:
    """Return the checks of a net that is deployed in another precision than it was exported in; none for others."""
    lowered = exported.lowered
    if lowered is None:
        yield from _of_given(exported, limits)
        return
    least = min(lowered.agreement_clean, lowered.agreement_adversarial)
    tuned = lowered.tuned_epochs
    # Weights that were trained further make another net, and to be like the first is not what they are for.
    afterwards = f"; it was fine-tuned for {tuned} epochs, so it is another net" if tuned else ""
    yield Diagnostic(
        id="precision-agreement",
        level="warn" if least < limits.lowering and not tuned else "ok",
        text=(
            f"in {lowered.precision} the net labels {lowered.agreement_clean:.1%} of {lowered.n} clean held-out images "
            f"and {lowered.agreement_adversarial:.1%} of {lowered.n} attacked ones as in fp32 (limit "
            f"{limits.lowering:.0%}){afterwards}"
        ),
        value=least,
        threshold=limits.lowering,
    )
    if lowered.twin_problem or exported.parity is None:
        yield Diagnostic(
            id="twin-fidelity",
            level="block",
            text=(
                f"gradients were those of the net in fp32, as the {lowered.precision} file has no twin in torch that "
                f"tells of it: {lowered.twin_problem}; robust accuracy may be far lower than what was found"
            ),
            metrics=ROBUST_METRICS,
            flatters=True,  # an attack on another net finds too little
        )
        return
    parity = exported.parity
    alike = min(parity.agreement_clean, parity.agreement_adversarial)
    yield Diagnostic(
        id="twin-fidelity",
        level="ok",
        text=(
            f"gradients were those of the {lowered.precision} file's own twin in torch, which labels {alike:.1%} of "
            f"{parity.n} held-out images, clean and attacked, as the runtime does (limit {limits.twin:.0%}); scores "
            f"are within {parity.max_abs_clean:.2g}"
        ),
        value=alike,
        threshold=limits.twin,
    )


def _of_given(exported: OnnxRecord, limits: Limits) -> Iterator[Diagnostic]:
    """Say of an ONNX file that others gave whether its gradients were followed."""
    given, parity = exported.given, exported.parity
    if given is None:
        return
    if given.twin_problem or parity is None:
        yield Diagnostic(
            id="twin-fidelity",
            level="block",
            text=(
                f"no gradient of {given.file} could be followed in torch: {given.twin_problem}; query attacks alone "
                "were run, and robust accuracy may be far lower than what they found"
            ),
            metrics=ROBUST_METRICS,
            flatters=True,  # attacks without gradients find too little
        )
        return
    alike = min(parity.agreement_clean, parity.agreement_adversarial)
    yield Diagnostic(
        id="twin-fidelity",
        level="ok",
        text=(
            f"gradients were those of a twin of {given.file} in torch, which labels {alike:.1%} of {parity.n} held-out "
            f"images, clean and attacked, as the runtime does (limit {limits.twin:.0%}); scores are within "
            f"{parity.max_abs_clean:.2g}"
        ),
        value=alike,
        threshold=limits.twin,
    )
