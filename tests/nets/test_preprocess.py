"""What stands in front of a net: each step against others' code, and all of them in torch, in the ONNX file and behind
the agent on real JPEG files."""

import shutil

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from robustdeploy.core.load import load_recipe
from robustdeploy.core.recipe import Choice, Data
from robustdeploy.data.load import load_data
from robustdeploy.devices.board import board_from
from robustdeploy.devices.local import Local
from robustdeploy.errors import DataError, RecipeError, UsageError
from robustdeploy.export.metadata import NO_METADATA
from robustdeploy.export.onnx_file import export_onnx
from robustdeploy.nets.build import build_net
from robustdeploy.nets.preprocess.colour_order import ColourOrder
from robustdeploy.nets.preprocess.crop import Crop
from robustdeploy.nets.preprocess.normalise import Normalise
from robustdeploy.nets.preprocess.resize import Resize
from robustdeploy.nets.preprocess.steps import Steps, prepared_statistics
from robustdeploy.nets.store import NetInfo, load_info, load_net, save_net
from robustdeploy.nets.twin import load_twin
from robustdeploy.onboard.backends.onnxruntime import OnnxRuntime
from robustdeploy.onboard.types import pixels_from_bytes
from robustdeploy.train.start import net_info, starting_net

CAMERA = (3, 37, 53)
RNG = np.random.default_rng(0)


def steps(*told):
    return tuple(Choice(name=each.pop("name"), options=each) for each in map(dict, told))


ALL = steps(
    {"name": "resize", "size": [28, 36], "antialias": True},
    {"name": "crop", "size": [24, 24]},
    {"name": "colour-order"},
    {"name": "normalise", "mean": [0.4, 0.45, 0.5], "std": [0.2, 0.21, 0.22]},
)


def photos(count=2, height=37, width=53):
    """Smooth colours with some noise, as photos are: uint8 N×H×W×3."""
    rows, columns = np.mgrid[:height, :width]
    made = []
    for _ in range(count):
        waves = [np.sin(rows / RNG.uniform(2, 9)) * np.cos(columns / RNG.uniform(2, 9)) for _ in range(3)]
        made.append(128 + 90 * np.stack(waves, -1) + RNG.normal(0, 9, (height, width, 3)))
    return np.clip(made, 0, 255).astype(np.uint8)


def tensor(images):
    return torch.from_numpy(pixels_from_bytes(np.ascontiguousarray(images.transpose(0, 3, 1, 2))))


@pytest.mark.parametrize("size", [(28, 36), (50, 70), (20, 80)])
@pytest.mark.parametrize(("name", "filter_"), [("bilinear", "BILINEAR"), ("bicubic", "BICUBIC")])
def test_an_antialiased_resize_is_pillows_but_for_its_rounding(name, filter_, size):
    images = photos()
    ours = Resize(size, name, antialias=True)(tensor(images)).permute(0, 2, 3, 1).numpy()
    for image, our in zip(images, ours, strict=True):
        pillow, way = Image.fromarray(image), Image.Resampling[filter_]
        floats = [np.asarray(band.convert("F").resize(size[::-1], way)) / 255 for band in pillow.split()]
        assert np.abs(our - np.stack(floats, -1)).max() < 2e-6
        # Of 8 bits Pillow rounds after the columns and after the rows, and cuts what leaves the range.
        rounded = np.asarray(pillow.resize(size[::-1], way)).astype(float) / 255
        assert np.abs(our.clip(0, 1) - rounded).max() < 1.6 / 255


@pytest.mark.exhaustive
@pytest.mark.parametrize("antialias", [False, True])
def test_a_resize_is_torchvisions(antialias):
    from torchvision.transforms.v2 import functional

    images = torch.from_numpy(photos().transpose(0, 3, 1, 2))
    theirs = functional.resize(images, [20, 30], antialias=antialias).float() / 255
    ours = Resize((20, 30), antialias=antialias)(images.float() / 255)
    assert (ours - theirs).abs().max() <= 1 / 255, "theirs is rounded to 8 bits"


def test_without_antialias_only_the_nearest_pixels_count_as_in_opencv():
    image = photos(1)[0] / 255
    at = [np.clip((np.arange(new) + 0.5) * old / new - 0.5, 0, old - 1) for new, old in ((20, 37), (30, 53))]
    low = [np.floor(places).astype(int) for places in at]
    high = [np.minimum(first + 1, old - 1) for first, old in zip(low, (37, 53), strict=True)]
    share = [places - first for places, first in zip(at, low, strict=True)]
    rows = image[low[0]] * (1 - share[0])[:, None, None] + image[high[0]] * share[0][:, None, None]
    wanted = rows[:, low[1]] * (1 - share[1])[:, None] + rows[:, high[1]] * share[1][:, None]
    given = torch.from_numpy(image.transpose(2, 0, 1)[None])
    np.testing.assert_allclose(Resize((20, 30))(given)[0].permute(1, 2, 0), wanted, atol=1e-12)
    nearest = image[np.arange(20) * 37 // 20][:, np.arange(30) * 53 // 30]
    np.testing.assert_array_equal(Resize((20, 30), "nearest")(given)[0].permute(1, 2, 0), nearest)


def test_area_is_pillows_box_on_whole_blocks_and_refuses_others():
    image = photos(1, 36, 54)
    pillow = [
        np.asarray(b.convert("F").resize((18, 9), Image.Resampling.BOX)) for b in Image.fromarray(image[0]).split()
    ]
    ours = Resize((9, 18), "area")(tensor(image))[0].numpy()
    assert np.abs(ours - np.stack(pillow) / 255).max() < 2e-6
    with pytest.raises(RecipeError, match="preprocess: resize: area takes whole blocks, and 3×37×53 has none for 9×18"):
        Steps(steps({"name": "resize", "size": [9, 18], "interpolation": "area"})).shape(CAMERA)


@pytest.mark.parametrize(
    ("step", "told"),
    [
        (
            {"name": "resize", "size": [400_000, 400_000]},
            "resize: memory does not hold what it makes of a single image",
        ),
        (
            {"name": "normalise", "mean": [0.5], "std": [0.1, 0.2]},
            "normalise: std has 2 numbers, and images have 3 cha",
        ),
    ],
)
def test_what_no_image_can_be_made_into_is_told_in_a_sentence(step, told):
    with pytest.raises(RecipeError) as refused:
        Steps(steps(step)).shape(CAMERA)
    assert str(refused.value).startswith(f"preprocess: {told}")


def test_a_step_of_others_that_fails_is_told_with_its_error():
    broken = Steps(steps({"name": "crop", "size": [8, 8]}))
    broken.steps = (lambda images: images["red"],)
    with pytest.raises(RecipeError, match=r"preprocess: crop: (IndexError|TypeError)"):
        broken.shape(CAMERA)


def test_a_crop_is_the_middle_or_stands_where_it_is_told():
    images = tensor(photos())
    assert torch.equal(Crop((21, 21))(images), images[:, :, 8:29, 16:37])
    assert torch.equal(Crop((5, 7), top=3, left=0)(images), images[:, :, 3:8, :7])
    # One row more than can be halved is left below.
    assert torch.equal(Crop((36, 53))(images), images[:, :, :36])
    with pytest.raises(RecipeError, match="a window of 40×24 at -2, 14 lies outside of 3×37×53"):
        Steps(steps({"name": "crop", "size": [40, 24]})).shape(CAMERA)


def test_colours_are_moved_and_pixels_normalised():
    images = tensor(photos())
    assert torch.equal(ColourOrder("bgr")(images), images.flip(1))
    assert torch.equal(ColourOrder("gbr")(images), images[:, [1, 2, 0]])
    assert torch.equal(ColourOrder("rgb")(images), images)
    normal = Normalise((0.1, 0.2, 0.3), (8 / 255,))(images)
    torch.testing.assert_close(normal[:, 1], (images[:, 1] - 0.2) / (8 / 255))
    with pytest.raises(RecipeError, match="colour-order: an order of colours needs images of 3 channels"):
        Steps(steps({"name": "colour-order"})).shape((1, 8, 8))
    with pytest.raises(RecipeError, match="normalise: mean has 3 numbers, and images have 1 channels"):
        Steps(steps({"name": "normalise"})).shape((1, 8, 8))


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ("[{name: reisze}]", "did you mean 'resize'"),
        ("[{name: resize, size: [0, 4]}]", r"size\[0\]: must be at least 1, not 0"),
        ("[{name: resize, interpolation: nearest, antialias: true}]", "antialias is for bilinear and bicubic"),
        ("[{name: normalise, std: [0]}]", "std must be above 0"),
        ("resize", r"write \[resize\]"),
    ],
)
def test_a_recipe_that_is_wrong_is_told_before_any_image_is_read(given, words):
    with pytest.raises(RecipeError, match=words):
        load_recipe("digits-resnet8", [f"preprocess={given}"])


def test_the_data_sets_statistics_follow_their_channels_and_go_where_a_step_normalises():
    mean, std = (0.1, 0.2, 0.3), (0.4, 0.5, 0.6)
    assert prepared_statistics((), CAMERA, mean, std) == (mean, std)
    assert prepared_statistics(ALL[:3], CAMERA, mean, std) == (mean[::-1], std[::-1])
    assert prepared_statistics(ALL, CAMERA, mean, std) == ((0, 0, 0), (1, 1, 1))


def small(preprocess=ALL, shape=CAMERA):
    torch.manual_seed(0)
    mean, std = prepared_statistics(preprocess, shape, (0.5,) * 3, (0.25,) * 3)
    return build_net(Choice(name="resnet8", options={"width": 4}), 3, shape, mean, std, preprocess).eval()


def test_attacks_move_the_cameras_pixels_and_only_those_that_the_net_reads():
    images = tensor(photos()).requires_grad_()
    small()(images).square().sum().backward()
    reached = images.grad.abs().amax((0, 1)) > 0
    assert images.grad.shape[1:] == CAMERA
    # Rows 2 to 26 of 28 and columns 6 to 30 of 36 are read: the edges of the camera's image are not.
    assert reached[8:29, 14:39].all()
    assert not reached[:, :4].any()
    assert not reached[:, -4:].any()


WAYS = {
    "all": ALL,
    "bilinear": steps({"name": "resize", "size": [24, 24]}),
    "bicubic": steps({"name": "resize", "size": [60, 60], "interpolation": "bicubic"}),
    "bicubic-antialias": steps({"name": "resize", "size": [24, 24], "interpolation": "bicubic", "antialias": True}),
    "nearest": steps({"name": "resize", "size": [24, 24], "interpolation": "nearest"}),
    "area": steps({"name": "crop", "size": [36, 52]}, {"name": "resize", "size": [18, 26], "interpolation": "area"}),
}


@pytest.mark.alike(2)
@pytest.mark.parametrize("way", WAYS)
def test_the_exported_file_takes_camera_pixels_with_the_same_scores_and_a_twin(way, tmp_path):
    net, images = small(WAYS[way]), tensor(photos(5))
    export_onnx(net, CAMERA, tmp_path / "net.onnx", 18, NO_METADATA)
    with torch.no_grad():
        wanted = net(images)
        twin = load_twin(tmp_path / "net.onnx")(images)
    found = OnnxRuntime().load(tmp_path / "net.onnx")(images.numpy())
    assert np.abs(found - wanted.numpy()).max() < 1e-5
    assert (twin - wanted).abs().max() < 1e-5


def test_a_stored_net_keeps_its_steps_and_one_without_any_keeps_its_file(tmp_path):
    for name, preprocess in (("with", ALL), ("without", ())):
        mean, std = prepared_statistics(preprocess, CAMERA, (0.5,) * 3, (0.25,) * 3)
        net = Choice(name="resnet8", options={"width": 4})
        info = NetInfo(net=net, classes=tuple("abc"), image_shape=CAMERA, preprocess=preprocess, mean=mean, std=std)
        (tmp_path / name).mkdir()
        save_net(tmp_path / name, small(preprocess), info)
        images = tensor(photos())
        assert load_info(tmp_path / name).preprocess == preprocess
        assert torch.equal(load_net(tmp_path / name)(images), small(preprocess)(images))
    text = (tmp_path / "with/net.json").read_text()
    (tmp_path / "with/net.json").write_text(text.replace('"bgr"', '"grb"').replace("36", "35"))
    with pytest.raises(Exception, match="edited"):
        load_net(tmp_path / "with")


@pytest.fixture(scope="module")
def camera(tmp_path_factory):
    """JPEG files of one camera in class folders, of an odd size."""
    root = tmp_path_factory.mktemp("camera")
    for part, count in (("train", 6), ("test", 2)):
        for name in ("left", "middle", "right"):
            (root / part / name).mkdir(parents=True)
            for number, image in enumerate(photos(count)):
                Image.fromarray(image).save(root / part / name / f"{number}.jpg", quality=80 + number)
    return root


def recipe_of(camera, preprocess=ALL):
    recipe = load_recipe("digits-resnet8", ["data.name=folder", f"data.path={camera}", "data.validation=0.3"])
    net = Choice(name="resnet8", options={"width": 4})
    return recipe.model_copy(update={"net": net, "preprocess": preprocess})


def test_jpegs_are_scored_on_the_board_as_on_the_host_and_as_by_others_code(camera, agent, tmp_path):
    recipe = recipe_of(camera)
    data = load_data(recipe.data)
    assert data.image_shape == CAMERA
    net = starting_net(recipe, data, torch.device("cpu")).eval()
    assert net_info(recipe, data).preprocess == ALL
    images = data.train.images
    with torch.no_grad():
        host = net(images.float() / 255).numpy()
    export_onnx(net, CAMERA, tmp_path / "net.onnx", 18, NO_METADATA)
    with board_from(Local(), agent, deadline_s=60) as board:
        compiled = board.compile("onnxruntime", board.put(tmp_path / "net.onnx"))
        board.open_engine("onnxruntime", compiled.files)
        assert np.abs(board.score(images.numpy()) - host).max() < 1e-5
    # Pillow decodes, resizes and rounds to 8 bits, as a pipeline on a board may; the scores move by that rounding.
    files = [path for name in data.classes for path in sorted((camera / "train" / name).iterdir())]
    prepared = []
    for place in data.train.ids.tolist():
        image = np.asarray(Image.open(files[place]).resize((36, 28), Image.Resampling.BILINEAR))[2:26, 6:30, ::-1] / 255
        prepared.append((image - [0.4, 0.45, 0.5]) / [0.2, 0.21, 0.22])
    theirs = torch.from_numpy(np.stack(prepared)).permute(0, 3, 1, 2).float()
    with torch.no_grad():
        rounded = net.net(theirs).numpy()
    assert np.abs(rounded - host).max() < 0.05 * np.ptp(host)
    assert (rounded.argmax(1) == host.argmax(1)).mean() > 0.8


def test_an_image_of_another_camera_is_an_error_that_says_what_to_do(camera, tmp_path):
    shutil.copytree(camera, tmp_path / "mixed")
    Image.fromarray(photos(1, 40, 53)[0]).save(tmp_path / "mixed/train/left/9.jpg")
    with pytest.raises(DataError, match=r"9\.jpg is 40×53 and others are 37×53; set data\.size to resize all of them"):
        load_data(Data(name="folder", path=tmp_path / "mixed"))


def test_a_training_starts_from_a_net_with_the_same_steps_alone(camera, tmp_path):
    recipe = recipe_of(camera)
    data = load_data(recipe.data)
    save_net(tmp_path, starting_net(recipe, data, torch.device("cpu")), net_info(recipe, data))
    train = recipe.train.model_copy(update={"start": tmp_path})
    same = recipe.model_copy(update={"train": train})
    assert isinstance(starting_net(same, data, torch.device("cpu")), nn.Module)
    for other in ((), ALL[:3]):
        with pytest.raises(UsageError, match=r"in front of the net in .* stands \[\{name: resize.*--set 'preprocess="):
            starting_net(same.model_copy(update={"preprocess": other}), data, torch.device("cpu"))
