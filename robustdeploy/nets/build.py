"""Build a net from a recipe's choice: a plug-in, a torchvision classifier, or anybody's ``package.module:factory``."""

from __future__ import annotations

import functools
import importlib
import inspect
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from robustdeploy.core.factories import (
    ONNX_FILE,
    TORCHVISION,
    check_factory_name,
    check_factory_source,
    is_factory,
    never_defined_in,
    origin,
)
from robustdeploy.core.recipe import Choice
from robustdeploy.core.registry import NETS
from robustdeploy.core.torchvision_package import part_of_torchvision
from robustdeploy.errors import RecipeError, RobustdeployError
from robustdeploy.nets.bounds import TooLarge, bounded, check_bounds
from robustdeploy.nets.normalised import Normalised
from robustdeploy.nets.preprocess.steps import Steps
from robustdeploy.nets.steady import entered, layer_text

_WITHOUT_SIDE_LOGITS = {"aux_logits": False, "init_weights": True}
"""Options of the two torchvision nets whose training mode would give more than logits."""


def build_net(
    choice: Choice,
    classes: int,
    image_shape: tuple[int, int, int],
    mean: Sequence[float],
    std: Sequence[float],
    preprocess: Sequence[Choice] = (),
) -> Normalised:
    """Return the net of ``choice`` for images of C×H×W, with its normalisation, from pixels in [0, 1] to logits.

    ``preprocess`` are the steps in front of it; ``mean`` and ``std`` are of what they give, channel by channel.

    Weights are drawn from torch's global generator, so the caller seeds it. One forward pass in eval mode on zeros
    proves that the net takes the images and gives one logit per class. Whatever is wrong is a RecipeError.
    """
    steps = Steps(preprocess)
    name, options, channels = choice.name, choice.options, steps.shape(image_shape)[0]
    make: Callable[[], Any]
    # Factories first, by their colon; no plug-in has one in its name, so neither can shadow the other.
    if name == ONNX_FILE:
        raise RecipeError(
            "a net that is an ONNX file cannot be built anew: its weights lie in the file; `robustdeploy import FILE` "
            "takes it, and prune and run need a net of torch"
        )
    if is_factory(name):
        make = partial(_from_factory, name, options, classes, channels)
    elif name in NETS:
        make = partial(NETS.build(name, options), classes, channels)
    elif name.removeprefix(TORCHVISION) in _torchvision_names():
        make = partial(_from_torchvision, name.removeprefix(TORCHVISION), options, classes, channels)
    else:
        raise RecipeError(f"{NETS.unknown(name)}; torchvision's classifiers and package.module:factory work too")
    if not is_factory(name):  # code of the user's own is not run once more for this
        check_bounds(name, make)
    with bounded(name):
        net = make()
    if not isinstance(net, nn.Module):
        raise RecipeError(f"net '{name}' gave {type(net).__name__}; it must give a torch.nn.Module")
    net = _unwrapped(net)
    _check_layers(name, net)
    whole = Normalised(net, mean, std, steps if preprocess else None)
    # Through the normalisation too: what is checked is what will be exported.
    _check_logits(name, whole, classes, image_shape)
    return whole


def _torchvision_names() -> list[str]:
    models = part_of_torchvision("models")
    names: list[str] = models.list_models(module=models)
    return names


def _from_torchvision(name: str, options: Mapping[str, Any], classes: int, channels: int) -> Any:
    if channels != 3:
        raise RecipeError(
            f"torchvision's net '{name}' reads 3 channels and the images have {channels}; "
            f"use one of {', '.join(NETS.names())}, or a package.module:factory of your own"
        )
    # Trained weights would be downloaded, and nothing downloads at run time.
    if refused := sorted({"weights", "pretrained", "num_classes"} & set(options)):
        raise RecipeError(f"net '{name}': the option {refused[0]} is not for recipes; nets are trained from scratch")
    models = part_of_torchvision("models")
    side = _WITHOUT_SIDE_LOGITS if name in ("googlenet", "inception_v3") else {}
    return _called(name, models.get_model_builder(name), {"num_classes": classes, **side, **options})


def _from_factory(name: str, options: Mapping[str, Any], classes: int, channels: int) -> Any:
    check_factory_name(name)
    if (file := origin(name)) is not None:
        # The source is looked at before the import: importing runs it.
        check_factory_source(name, file)
    module, _, attribute = name.partition(":")
    try:
        factory = getattr(importlib.import_module(module), attribute)
    except (RobustdeployError, KeyboardInterrupt):
        raise
    except BaseException as error:  # the module is foreign code, which may raise anything or leave
        fix = "write package.module:factory and see that the package is installed, on PYTHONPATH or in this folder"
        if isinstance(error, SystemExit):
            fix = "what starts a program of its own belongs under `if __name__ == '__main__':`"
        raise RecipeError(f"net '{name}' cannot be imported: {type(error).__name__}: {error}; {fix}") from error
    _check_factory(name, factory)
    return _called(name, factory, {**_sizes(name, factory, classes, channels), **options})


def _check_factory(name: str, factory: Any) -> None:
    """Refuse what was imported under the factory's name but is none: it is looked at before it is called."""
    if not callable(factory):
        raise RecipeError(f"net '{name}' is {type(factory).__name__}; a factory must be callable")
    # Wrapped and partial factories hide where the code is from, which is what is to be judged.
    made = inspect.unwrap(factory)
    while isinstance(made, functools.partial):
        made = inspect.unwrap(made.func)
    if isinstance(made, type) and not issubclass(made, nn.Module):
        raise RecipeError(f"net '{name}' is the class {made.__name__}, which is no torch.nn.Module")
    home = getattr(made, "__module__", None) or type(made).__module__
    if refused := never_defined_in(home):
        raise RecipeError(f"net '{name}' is defined in {home}: {refused}; define a factory in a module of your own")


def _sizes(name: str, factory: Callable[..., Any], classes: int, channels: int) -> dict[str, int]:
    """Return the number of classes and of channels under the names that ``factory`` has for them."""
    try:
        parameters = inspect.signature(factory).parameters
    except (ValueError, TypeError) as error:
        raise RecipeError(f"net '{name}': the arguments of this factory cannot be read ({error})") from error
    takes_any = any(p.kind is inspect.Parameter.VAR_KEYWORD for p in parameters.values())
    count = "classes" if "classes" in parameters else "num_classes"
    if count not in parameters and not takes_any:
        raise RecipeError(f"net '{name}': the factory must accept num_classes= or classes=, it has {list(parameters)}")
    # Under **kwargs the number of channels is left out: a factory that knows no such name would refuse it.
    found = next((word for word in ("in_channels", "channels") if word in parameters), None)
    return {count: classes} if found is None else {count: classes, found: channels}


def _called(name: str, factory: Callable[..., Any], arguments: Mapping[str, Any]) -> Any:
    try:
        return factory(**arguments)
    except TooLarge:
        raise
    except Exception as error:  # foreign code may raise anything
        given = ", ".join(f"{key}={value!r}" for key, value in arguments.items())
        fix = f"; its arguments stand beside its name: {{name: {name}, …: …}}" if isinstance(error, TypeError) else ""
        raise RecipeError(f"net '{name}' called with {given}: {type(error).__name__}: {error}{fix}") from error


def _unwrapped(net: nn.Module) -> nn.Module:
    """Return what is inside of wrappers that only say how a net is run; that is the recipe's to say."""
    while True:
        if isinstance(net, (nn.DataParallel, nn.parallel.DistributedDataParallel)):
            net = net.module
        elif isinstance(inside := getattr(net, "_orig_mod", None), nn.Module):  # of torch.compile
            net = inside
        else:
            return net


def _check_layers(name: str, net: nn.Module) -> None:
    """Refuse layers that nothing here could follow or export, and numbers that an export would change."""
    for path, module in net.named_modules():
        if isinstance(module, torch.jit.ScriptModule):
            where = f"at {path} it" if path else "it"
            raise RecipeError(
                f"net '{name}': {where} is compiled to TorchScript, whose layers cannot be pruned or exported; give "
                "the module as it was before torch.jit"
            )
    for path, parameter in net.named_parameters():
        if parameter.is_floating_point() and parameter.dtype != torch.float32:
            kind = str(parameter.dtype).removeprefix("torch.")
            raise RecipeError(
                f"net '{name}': its parameter {path} is {kind}; nets are trained and exported in float32: leave out "
                ".half(), .bfloat16() and .double()"
            )


def _check_logits(name: str, net: nn.Module, classes: int, image_shape: tuple[int, int, int]) -> None:
    shape = "×".join(map(str, image_shape))
    # In eval mode, since batch normalisation in training mode refuses a single image and would move its statistics.
    net.eval()
    try:
        with torch.no_grad(), entered(net) as inside:
            logits = net(torch.zeros(1, *image_shape))
    except Exception as error:  # foreign code may raise anything
        layer = f"{layer_text(net, inside[-1])}: " if inside[-1] not in ("", "net") else ""
        raise RecipeError(f"net '{name}' cannot read images of {shape}: {layer}{error}") from error
    finally:
        # torch gives every fresh net in training mode, and the training relies on it.
        net.train()
    if not isinstance(logits, Tensor):
        raise RecipeError(f"net '{name}' gives {type(logits).__name__} for an image; it must give a tensor of logits")
    if tuple(logits.shape) != (1, classes):
        raise RecipeError(
            f"net '{name}' gives logits of shape {tuple(logits.shape)} for one image; "
            f"the data has {classes} classes, so it must be (1, {classes})"
        )
