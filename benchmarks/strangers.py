"""Strangers: twelve nets that were made without this package, each run from its file to a report.

    python benchmarks/strangers.py

All classify scikit-learn's digits. What is deployed is held against the file itself (ONNX Runtime) or the net itself
(torch) on held-out images. Then it is attacked with little strength, enough to see that gradients are followed.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import torch
from torch import Tensor, nn
from zoo import of_timm, of_torchvision

from robustdeploy import api
from robustdeploy.core.load import load_recipe, load_target
from robustdeploy.data.load import load_data
from robustdeploy.imports.asked import NOTHING_SAID, Asked
from robustdeploy.nets.graph import session_of
from robustdeploy.onboard.types import pixels_from_bytes

Array = npt.NDArray[np.float32]
Own = Callable[[Array], Array]
ATTACKS = "[fgsm,{name: pgd, steps: 10},{name: square, queries: 50}]"
FEW = ("evaluate.limit=100", "evaluate.curve_limit=20", "evaluate.eps_curve=[1.0]", f"evaluate.attacks={ATTACKS}")
QUICK = "extends: host-cpu\nname: quick\nlatency: {warmup_s: 0.01, min_s: 0.05, max_s: 1, min_samples: 100}\n"


@dataclass(frozen=True)
class Stranger:
    """A file, what has to be said of it, and what it answers by itself to pixels in [0, 1]."""

    path: Path
    own: Own
    asked: Asked = NOTHING_SAID
    overrides: tuple[str, ...] = ()


def small(num_classes: int) -> nn.Module:
    """Return a small net of torch, as a user's factory does."""
    first = [nn.Conv2d(1, 16, 3, padding=1), nn.ReLU(), nn.Conv2d(16, 16, 3, 2, 1), nn.ReLU()]
    return nn.Sequential(*first, nn.Flatten(), nn.Linear(256, num_classes))


@cache
def digits(size: int = 8) -> Any:
    """Return the digits, enlarged to ``size``."""
    return load_data(load_recipe("digits-resnet8", [f"data.size={size}"]).data)


@cache
def trained() -> nn.Module:
    """Return the small net after a few epochs on the digits."""
    torch.manual_seed(0)
    net, data = small(10), digits().train
    images, labels = torch.from_numpy(pixels_from_bytes(data.images.numpy())), data.labels
    optimiser = torch.optim.Adam(net.parameters(), 3e-3)
    for _ in range(8):
        for part in torch.split(torch.randperm(len(images)), 64):
            optimiser.zero_grad()
            nn.functional.cross_entropy(net(images[part]), labels[part]).backward()
            optimiser.step()
    return net.eval()


class NHWC(nn.Module):
    """The small net as Keras lays images out."""

    def __init__(self) -> None:
        super().__init__()
        self.net = trained()

    def forward(self, images: Tensor) -> Tensor:
        """Return the scores of N×H×W×C images."""
        scores: Tensor = self.net(images.permute(0, 3, 1, 2))
        return scores


class Levels(nn.Module):
    """The small net for levels from 0 to 255."""

    def __init__(self) -> None:
        super().__init__()
        self.net = trained()

    def forward(self, images: Tensor) -> Tensor:
        """Return the scores of N×1×8×8 levels."""
        scores: Tensor = self.net(images / 255.0)
        return scores


def with_last_layer(net: nn.Module, size: int = 32) -> nn.Module:
    """Return a fresh net whose last layer was fitted to the digits in closed form, on what its other layers give."""
    data = digits(size).train
    images, labels = torch.from_numpy(pixels_from_bytes(data.images[:800].numpy())), data.labels[:800]
    last = [module for module in net.modules() if isinstance(module, nn.Linear)][-1]
    seen: list[Tensor] = []
    with torch.no_grad():
        for part in torch.split(images, 100)[:4]:
            net.train()(part)  # statistics of the batch normalisation
        hook = last.register_forward_pre_hook(lambda module, given: seen.append(given[0]))
        for part in torch.split(images, 100):
            net.eval()(part)
        hook.remove()
        features = torch.cat(seen)
        mean, std = features.mean(0), features.std(0) + 1e-6
        z = (features - mean) / std
        wanted = nn.functional.one_hot(labels, 10).float() - 0.1
        weights = torch.linalg.solve(z.T @ z + 100 * torch.eye(z.shape[1]), z.T @ wanted)
        last.weight.copy_(10 * (weights / std[:, None]).T)
        last.bias.copy_(-10 * (mean / std) @ weights)
    return net.eval()


def exported(net: nn.Module, path: Path, example: Tensor, free: bool = True) -> Path:
    """Export ``net`` by torch's own exporter."""
    count = ({0: torch.export.Dim("N", min=1, max=64)},) if free else None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            net.eval(),
            (example,),
            path,
            dynamo=True,
            opset_version=18,
            external_data=False,
            verbose=False,
            dynamic_shapes=count,
        )
    return path


def asks(path: Path, enter: Callable[[Array], Any] = lambda pixels: pixels, batch: int = 100, output: int = 0) -> Own:
    """Return what asks the file itself, in batches that it takes."""
    session = session_of(path.read_bytes())
    name = session.get_inputs()[0].name

    def own(pixels: Array) -> Array:
        entered = enter(pixels)
        parts = [entered[at : at + batch] for at in range(0, len(entered), batch)]
        return np.concatenate([np.asarray(session.run(None, {name: part})[output]) for part in parts])

    return own


def of_torch(net: nn.Module) -> Own:
    """Return what asks the net itself."""

    def own(pixels: Array) -> Array:
        with torch.no_grad():
            scores: Array = net(torch.from_numpy(pixels)).numpy()
        return scores

    return own


def strangers(folder: Path) -> dict[str, Callable[[], Stranger]]:
    """Return what makes each file in ``folder``."""
    grey, large, one = torch.zeros(2, 1, 8, 8), torch.zeros(2, 1, 32, 32), torch.zeros(1, 1, 8, 8)
    unit = Asked(values=(0.0, 1.0))
    big = ("data.size=32",)
    user = ("net=strangers:small",)

    def plain(name: str, net: nn.Module, example: Tensor, asked: Asked = NOTHING_SAID, **more: Any) -> Stranger:
        path = exported(net, folder / f"{name}.onnx", example, more.get("free", True))
        return Stranger(path, asks(path, **more.get("asking", {})), asked, more.get("overrides", ()))

    def sklearn(kind: Any, name: str) -> Stranger:
        from skl2onnx import to_onnx

        data = digits().train
        rows = pixels_from_bytes(data.images.numpy()).reshape(len(data.images), -1)
        path = folder / f"{name}.onnx"
        fitted = kind.fit(rows, data.labels.numpy())
        path.write_bytes(to_onnx(fitted, rows[:1], options={"zipmap": False}).SerializeToString())
        return Stranger(path, asks(path, lambda pixels: pixels.reshape(len(pixels), -1), output=1))

    def perceptron() -> Stranger:
        from sklearn.neural_network import MLPClassifier

        return sklearn(MLPClassifier((32,), max_iter=60, random_state=0, tol=1e-2), "sklearn")

    def forest() -> Stranger:
        from sklearn.ensemble import RandomForestClassifier

        return sklearn(RandomForestClassifier(20, max_depth=8, random_state=0), "forest")

    def quantised() -> Stranger:
        from onnxruntime.quantization import CalibrationDataReader, quantize_static

        class Reader(CalibrationDataReader):  # type: ignore[misc]
            """Training images, one by one."""

            def __init__(self) -> None:
                self.left = [pixels_from_bytes(each[None].numpy()) for each in digits().train.images[:64]]

            def get_next(self) -> Any:
                """Return one more image."""
                return {"images": self.left.pop()} if self.left else None

        path = exported(trained(), folder / "float.onnx", grey)
        model = onnx.load(path)
        given = model.graph.input[0].name
        for node in model.graph.node:
            node.input[:] = ["images" if each == given else each for each in node.input]
        model.graph.input[0].name = "images"
        onnx.save(model, path)
        quantize_static(path, folder / "int8.onnx", Reader(), per_channel=True)
        return Stranger(folder / "int8.onnx", asks(folder / "int8.onnx"), unit)

    def halves() -> Stranger:
        from onnxruntime.transformers.float16 import convert_float_to_float16

        path = exported(trained(), folder / "float.onnx", grey)
        half = convert_float_to_float16(onnx.load(path))
        onnx.save(half, folder / "fp16.onnx")
        return Stranger(folder / "fp16.onnx", asks(folder / "fp16.onnx", lambda x: x.astype(np.float16)), unit)

    def parallel() -> Stranger:
        state = {f"module.{name}": value for name, value in trained().state_dict().items()}
        torch.save({"state_dict": state, "epoch": 8}, folder / "parallel.pth")
        return Stranger(folder / "parallel.pth", of_torch(trained()), unit, user)

    def program() -> Stranger:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            torch.export.save(torch.export.export(trained(), (grey,)), folder / "program.pt2")
        return Stranger(folder / "program.pt2", of_torch(trained()), unit, user)

    def torchvision() -> Stranger:
        torch.manual_seed(0)
        return plain("torchvision", with_last_layer(of_torchvision("resnet18")), large, unit, overrides=big)

    def timm() -> Stranger:
        torch.manual_seed(0)
        return plain("timm", with_last_layer(of_timm("resnet18", zero_init_last=False)), large, unit, overrides=big)

    last = {"enter": lambda pixels: pixels.transpose(0, 2, 3, 1)}
    levels = {"enter": lambda pixels: pixels * np.float32(255)}
    return {
        "torchvision, resnet18": torchvision,
        "timm, resnet18": timm,
        "scikit-learn, perceptron by skl2onnx": perceptron,
        "NHWC, as of Keras": lambda: plain("nhwc", NHWC(), grey.permute(0, 2, 3, 1), unit, asking=last),
        "quantised (QDQ, int8)": quantised,
        "with a softmax": lambda: plain("softmax", nn.Sequential(trained(), nn.Softmax(1)), grey, unit),
        "a fixed batch of 1": lambda: plain("fixed", trained(), one, unit, free=False, asking={"batch": 1}),
        "levels from 0 to 255": lambda: plain("levels", Levels(), grey, asking=levels),
        "in fp16": halves,
        "weights behind `module.`": parallel,
        "an exported program, `.pt2`": program,
        "a forest, which has no twin": forest,
    }


def measured(stranger: Stranger, folder: Path) -> dict[str, Any]:
    """Run a file to its report and return what was found."""
    recipe = load_recipe("digits-resnet8", [*FEW, "gate=[]", *stranger.overrides])
    (folder / "quick.yaml").write_text(QUICK)
    quick = load_target(folder / "quick.yaml")
    written = api.run_net(stranger.path, recipe, [quick], asked=stranger.asked, runs=folder / "runs", trust=True)
    (file,) = (written.files[0].parent / "onnx" / "imported" / "fp32").glob("*.onnx")
    images = load_data(recipe.data).validation.images[:100].numpy()
    pixels = pixels_from_bytes(images)
    wanted = np.asarray(stranger.own(pixels), np.float32)
    found = session_of(file.read_bytes()).run(["scores"], {"images": pixels})[0]
    rows = {(row.metric, row.attack): row for row in written.report.measurements if row.subject.endswith("@quick")}
    worst = rows.get(("robust_accuracy", "worst"))
    return {
        "apart": float(np.abs(found - wanted).max() / max(1.0, np.abs(wanted).max())),
        "labels": float((found.argmax(1) == wanted.argmax(1)).mean()),
        "clean": rows["clean_accuracy", None].value,
        "attacked": sorted(name for metric, name in rows if metric == "robust_accuracy" and name != "worst"),
        "worst": None if worst is None else worst.value,
    }


def main(words: Sequence[str] | None = None) -> int:
    """Make, import and evaluate all of them and print a table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--only", nargs="+", help="words of the names")
    options = parser.parse_args(words)
    print("| net | scores apart | labels alike | clean | worst | by |")
    print("|---|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        for name, make in strangers(Path(folder)).items():
            if options.only and not any(word in name for word in options.only):
                continue
            row = measured(make(), Path(folder))
            worst = "–" if row["worst"] is None else f"{row['worst']:.1%}"
            shares = f"{row['labels']:.1%} | {row['clean']:.1%} | {worst}"
            print(f"| {name} | {row['apart']:.1e} | {shares} | {', '.join(row['attacked'])} |", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
