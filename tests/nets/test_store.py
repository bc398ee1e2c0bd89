from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn

from robustdeploy.core.recipe import Choice
from robustdeploy.errors import ArtifactError
from robustdeploy.nets.normalised import Normalised
from robustdeploy.nets.size import Size, module_sizes, resize_modules, size_differences
from robustdeploy.nets.store import NetInfo, dense_net, load_info, load_net, save_net


def info(name: str = "resnet8", shape: tuple[int, int, int] = (3, 16, 16), **options: object) -> NetInfo:
    return NetInfo(
        net=Choice(name=name, options=options),
        classes=tuple("abcd"),
        image_shape=shape,
        mean=(0.5,) * shape[0],
        std=(0.25,) * shape[0],
    )


def with_random_weights(net: Normalised) -> Normalised:
    generator = torch.Generator().manual_seed(3)
    for tensor in net.state_dict().values():
        if tensor.is_floating_point():
            tensor.copy_(torch.rand(tensor.shape, generator=generator) + 0.1)
    return net.eval()


def compact_resnet8() -> Normalised:
    net = dense_net(info())
    sizes = {
        "net.stages.0.0.conv1": Size(inputs=16, outputs=5),
        "net.stages.0.0.bn1": Size(inputs=5, outputs=5),
        "net.stages.0.0.conv2": Size(inputs=5, outputs=16),
        "net.stages.1.0.conv2": Size(inputs=32, outputs=3),
        "net.stages.1.0.bn2": Size(inputs=3, outputs=3),
        "net.stages.1.0.shortcut": Size(inputs=16, outputs=3, index=(4, -1, 0)),
        "net.stages.2.0.conv1": Size(inputs=3, outputs=64),
        "net.stages.2.0.shortcut": Size(inputs=3, outputs=64, index=(2, 0, 1) + (-1,) * 61),
    }
    resize_modules(net, sizes)
    assert set(size_differences(dense_net(info()), net)) == set(sizes)
    return with_random_weights(net)


def test_a_compact_net_comes_back_bit_for_bit(tmp_path: Path) -> None:
    net = compact_resnet8()
    written = save_net(tmp_path / "nets/pruned", net, info())
    images = torch.rand(3, 3, 16, 16)
    for place in (tmp_path, tmp_path / "nets/pruned", str(tmp_path)):
        loaded = load_net(place)
        assert not loaded.training
        assert torch.equal(loaded(images), net(images))
    assert written.modules["net.stages.1.0.shortcut"].index == (4, -1, 0)
    assert NetInfo.model_validate_json((tmp_path / "nets/pruned/net.json").read_text()) == written


@pytest.mark.parametrize(
    ("name", "options"), [("mobilenet_v2", {"width_mult": 0.25}), ("densenet121", {}), ("shufflenet_v2_x0_5", {})]
)
def test_torchvision_nets_come_back(tmp_path: Path, name: str, options: dict[str, object]) -> None:
    described = info(name, (3, 32, 32), **options)
    net = with_random_weights(dense_net(described))
    save_net(tmp_path, net, described)
    images = torch.rand(1, 3, 32, 32)
    assert torch.equal(load_net(tmp_path)(images), net(images))


def test_a_pruned_depthwise_net_keeps_its_groups(tmp_path: Path) -> None:
    described = info("mobilenet_v2", (3, 32, 32), width_mult=0.25)
    net = dense_net(described)
    block = "net.features.2.conv"
    sizes = {f"{block}.{layer}": Size(inputs=20, outputs=20) for layer in ("0.1", "1.1")}
    inputs = module_sizes(net)[f"{block}.0.0"].inputs
    outputs = module_sizes(net)[f"{block}.2"].outputs
    sizes[f"{block}.0.0"] = Size(inputs=inputs, outputs=20)
    sizes[f"{block}.1.0"] = Size(inputs=20, outputs=20, groups=20)
    sizes[f"{block}.2"] = Size(inputs=20, outputs=outputs)
    resize_modules(net, sizes)
    save_net(tmp_path, with_random_weights(net), described)
    images = torch.rand(1, 3, 32, 32)
    assert torch.equal(load_net(tmp_path)(images), net.eval()(images))


def test_loading_does_not_move_the_generator(tmp_path: Path) -> None:
    save_net(tmp_path, dense_net(info()), info())
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    load_net(tmp_path)
    assert torch.equal(torch.rand(3), expected)


def test_the_loaded_net_can_be_trained_on(tmp_path: Path) -> None:
    save_net(tmp_path, compact_resnet8(), info())
    net = load_net(tmp_path).train()
    net(torch.rand(2, 3, 16, 16)).sum().backward()
    assert all(p.grad is not None for p in net.parameters())


def flip_last_byte(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(bytes(content))


def edit_json(**fields: object) -> Callable[[Path], None]:
    def edit(folder: Path) -> None:
        path = folder / "net.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | fields))

    return edit


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda f: (f / "net.json").unlink(), "there is no net in"),
        (lambda f: (f / "model.safetensors").unlink(), "model.safetensors is missing"),
        (lambda f: flip_last_byte(f / "model.safetensors"), "truncated, edited or replaced"),
        (lambda f: (f / "model.safetensors").write_bytes((f / "model.safetensors").read_bytes()[:-9]), "truncated"),
        (lambda f: (f / "net.json").write_text("{"), "no description of a net"),
        (lambda f: (f / "net.json").write_bytes(b"\xff\xfe"), "no description of a net"),
        (edit_json(schema_version=2), "schema_version"),
        (edit_json(colour="red"), "colour"),
        (edit_json(mean=[0.4, 0.4, 0.4]), "was edited after"),
        (edit_json(classes=["d", "c", "b", "a"]), "was edited after"),
        (edit_json(modules={}), "was edited after"),
    ],
)
def test_damage_is_found_and_named(tmp_path: Path, damage: Callable[[Path], None], words: str) -> None:
    save_net(tmp_path, compact_resnet8(), info())
    damage(tmp_path)
    with pytest.raises(ArtifactError, match=words):
        load_net(tmp_path)


def test_files_of_two_nets_do_not_mix(tmp_path: Path) -> None:
    save_net(tmp_path / "a", compact_resnet8(), info())
    save_net(tmp_path / "b", dense_net(info()), info())
    (tmp_path / "b/model.safetensors").replace(tmp_path / "a/model.safetensors")
    with pytest.raises(ArtifactError, match="not the file that"):
        load_net(tmp_path / "a")


def test_a_classifier_of_torchvision_needs_no_word_of_trust(tmp_path: Path) -> None:
    described = info("torchvision.models:shufflenet_v2_x0_5", (3, 32, 32))
    save_net(tmp_path, dense_net(described), described)
    assert load_net(tmp_path)(torch.zeros(1, 3, 32, 32)).shape == (1, 4)


def test_a_net_with_other_layers_is_not_saved(tmp_path: Path) -> None:
    net = dense_net(info())
    net.net.extra = nn.Conv2d(1, 1, 1)
    with pytest.raises(ArtifactError, match=r"net\.extra"):
        save_net(tmp_path, net, info())


@pytest.mark.parametrize(
    ("name", "size", "words"),
    [
        ("net.gone", Size(inputs=1, outputs=1), "no layer 'net.gone'"),
        ("net.stages", Size(inputs=1, outputs=1), "no size to change"),
        ("net.bn", Size(inputs=2, outputs=3), "cannot give 3"),
        ("net.conv", Size(inputs=3, outputs=4, groups=2), "in 2 groups"),
        ("net.stages.1.0.shortcut", Size(inputs=2, outputs=3, index=(0, 1, 2)), "index must name 3 channels"),
    ],
)
def test_sizes_that_no_layer_can_have_are_refused(name: str, size: Size, words: str) -> None:
    with pytest.raises(ArtifactError, match=words):
        resize_modules(dense_net(info()), {name: size})


@pytest.mark.parametrize("shape", [(4096, 4096, 4096), (4, 4096, 4096), (64, 1024, 2048), (1, 4097, 1)])
def test_images_larger_than_any_are_no_description_of_a_net(tmp_path, shape):
    info = {"net": {"name": "resnet8"}, "classes": ["a", "b"], "image_shape": shape, "mean": [0], "std": [1]}
    (tmp_path / "net.json").write_text(json.dumps(info))
    with pytest.raises(ArtifactError, match="image_shape"):
        load_info(tmp_path)
