"""Image files as people have them: what is read, what is changed and said, what is refused, and in how much memory."""

import contextlib
import os
import re
import shutil
import struct
import subprocess
import sys
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from robustdeploy.core.recipe import Data
from robustdeploy.core.room import left_of_control_groups
from robustdeploy.data import room
from robustdeploy.data.load import load_data, load_test
from robustdeploy.errors import DataError

SIDE = 8
RNG = np.random.default_rng(0)
EPS_FILE = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n%%EndComments\n(mark) (w) file pop showpage\n%%EOF\n"


def noise(*shape, kind=np.uint8):
    return RNG.integers(0, np.iinfo(kind).max, shape, endpoint=True).astype(kind)


@pytest.fixture
def root(tmp_path):
    """Two classes of five sound colour images, and two test images of each."""
    folder = tmp_path / "mine"
    for part, count in (("train", 5), ("test", 2)):
        for name in ("left", "right"):
            (folder / part / name).mkdir(parents=True)
            for number in range(count):
                Image.fromarray(noise(SIDE, SIDE, 3)).save(folder / part / name / f"{number}.png")
    return folder


def read(root, **options):
    told = []
    loaded = load_data(Data(name="folder", path=root, validation=0.3, **options), None, told.append)
    return loaded, told


def saved(image, name="odd.png", **options):
    return lambda root: image().save(root / "train/left" / name, **options)


def written(content, name="odd.png"):
    return lambda root: (root / "train/left" / name).write_bytes(content)


def png_of(width, height, depth=8, colour=2):
    """The head of a PNG that claims a size, and nothing behind it."""
    head = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    chunk = struct.pack(">I", 13) + b"IHDR" + head + struct.pack(">I", zlib.crc32(b"IHDR" + head))
    return b"\x89PNG\r\n\x1a\n" + chunk


def chunk(kind, data):
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png_16(root):
    rows = b"".join(b"\0" + bytes(SIDE * 6) for _ in range(SIDE))
    parts = png_of(SIDE, SIDE, 16), *(chunk(k, d) for k, d in ((b"IDAT", zlib.compress(rows)), (b"IEND", b"")))
    (root / "train/left/odd.png").write_bytes(b"".join(parts))


def animated(name, **options):
    def save(root):
        frames = [Image.fromarray(noise(SIDE, SIDE, 3)) for _ in range(3)]
        frames[0].save(root / "train/left" / name, save_all=True, append_images=frames[1:], **options)

    return save


def pipe(root):
    os.mkfifo(root / "train/left/odd.png")


def link_to_nothing(root):
    (root / "train/left/odd.png").symlink_to("gone.png")


def cut(root):
    path = root / "train/left/odd.png"
    Image.fromarray(noise(64, 64, 3)).resize((SIDE, SIDE)).save(path)
    path.write_bytes(path.read_bytes()[:-40])


UNREADABLE = {
    "no image": (written(b"hello"), "damaged, or none of JPEG"),
    "EPS by another name": (written(EPS_FILE), "damaged, or none of JPEG"),
    "GIF by another name": (saved(lambda: Image.new("P", (SIDE, SIDE)), format="GIF"), "damaged, or none of JPEG"),
    "empty": (written(b""), "the file is empty"),
    "cut": (cut, "cannot read the image"),
    "only a head": (written(png_of(SIDE, SIDE)), "cannot read the image"),
    "16 bits, colour": (png_16, "16 bits per channel"),
    "16 bits, colour, TIFF": (
        written(
            b"II*\0\x08\0\0\0\x08\0"
            + b"".join(
                struct.pack("<HHII", tag, 3, 1, value)
                for tag, value in ((256, 1), (257, 1), (258, 16), (259, 1), (262, 2), (273, 8), (277, 3), (279, 6))
            )
            + b"\0\0\0\0",
            "odd.tif",
        ),
        "cannot read the image",
    ),
    "16 bits, colour, PPM": (written(b"P6 8 8 65535\n" + bytes(SIDE * SIDE * 6), "odd.ppm"), "16 bits per channel"),
    "16 bits, grey": (saved(lambda: Image.fromarray(noise(SIDE, SIDE, kind=np.uint16))), "pixel format I;16"),
    "floats": (saved(lambda: Image.new("F", (SIDE, SIDE)), "odd.tif"), "pixel format F"),
    "animated PNG": (animated("odd.png"), "holds 3 pictures"),
    "animated WebP": (animated("odd.webp", lossless=True), "holds 3 pictures"),
    "many pages": (animated("odd.tif"), "holds 3 pictures"),
    "huge by its head": (written(b"P6 60000 60000 255\n", "odd.ppm"), "more than 100 megapixels"),
    "large by its head": (written(png_of(11_000, 10_000) + chunk(b"IDAT", b"")), "100 megapixels"),
    "no pixel": (written(png_of(0, SIDE)), "cannot read the image"),
    "no pixel, PPM": (written(b"P6 0 0 255\n", "odd.ppm"), "cannot read the image"),
    "a pipe": (pipe, "it is a pipe"),
    "a link to nothing": (link_to_nothing, "no such file"),
}


@pytest.mark.parametrize("what", UNREADABLE)
def test_what_cannot_be_read_is_named_with_its_reason_and_can_be_left_out(root, what):
    make, words = UNREADABLE[what]
    make(root)
    with pytest.raises(DataError) as caught:
        read(root)
    said = str(caught.value)
    assert "odd." in said
    assert words in said
    assert "--skip-unreadable" in said
    loaded, told = read(root, skip_unreadable=True)
    assert len(loaded.train) + len(loaded.validation) == 10
    assert loaded.facts()["unreadable_skipped"] == 1
    assert [line for line in told if line.startswith("1 unreadable images are left out, first: cannot read")]


def test_no_program_is_started_for_an_eps_file(root, tmp_path, monkeypatch):
    """Pillow starts ``gs`` for EPS; a program of that name on the path leaves its mark."""
    programs, mark, file = tmp_path / "programs", tmp_path / "mark", root / "train/left/0.png"
    programs.mkdir()
    (programs / "gs").write_text(f"#!/bin/sh\ntouch {mark}\n")
    (programs / "gs").chmod(0o755)
    monkeypatch.setenv("PATH", str(programs), prepend=os.pathsep)
    monkeypatch.setattr("PIL.EpsImagePlugin.gs_binary", None)
    file.write_bytes(EPS_FILE)
    with pytest.raises(DataError, match="damaged, or none of JPEG"):
        read(root)
    assert not mark.exists()
    with contextlib.suppress(OSError), Image.open(file) as image:  # what would start it
        image.load()
    assert mark.exists()


def test_all_unreadable_images_are_in_one_error_the_first_ten_by_name(root):
    for number in range(14):
        (root / f"train/right/bad{number:02}.jpg").write_bytes(b"bad")
    with pytest.raises(DataError) as caught:
        read(root)
    lines = str(caught.value).splitlines()
    assert lines[0].startswith("14 images cannot be read;")
    assert next(line for line in lines if "bad" in line).count("bad00.jpg") == 1
    assert len(lines) == 12
    assert lines[-1] == "and 4 more"


def test_the_test_set_is_treated_alike_and_its_ids_are_places_in_the_folder(root):
    (root / "test/left/00.png").write_bytes(b"bad")
    spec = Data(name="folder", path=root)
    with pytest.raises(DataError, match=r"one image cannot be read.*\n.*00\.png"):
        load_test(spec, ("left", "right"))
    held = load_test(spec.model_copy(update={"skip_unreadable": True}), ("left", "right"))
    assert held.ids.tolist() == [0, 2, 3, 4]
    assert held.labels.tolist() == [0, 0, 1, 1]


def test_when_no_image_at_all_can_be_read_leaving_them_out_is_no_way(root):
    for path in root.glob("train/*/*.png"):
        path.write_bytes(b"bad")
    for skip in (False, True):
        with pytest.raises(DataError, match="cannot read the image"):
            read(root, skip_unreadable=skip)


def turned(root):
    pixels = noise(SIDE, SIDE, 3)
    image = Image.fromarray(pixels)
    exif = Image.Exif()
    exif[0x0112] = 6
    image.save(root / "test/left/0.png", exif=exif)
    return np.rot90(pixels, -1)


def transparent(root):
    pixels = noise(SIDE, SIDE, 4)
    pixels[..., 3] = np.where(np.arange(SIDE) < 4, 0, 255)
    Image.fromarray(pixels).save(root / "test/left/0.png")
    return np.where(pixels[..., 3:] == 0, 0, pixels[..., :3])


def opaque(root):
    pixels = noise(SIDE, SIDE, 4)
    pixels[..., 3] = 255
    Image.fromarray(pixels).save(root / "test/left/0.png")
    return pixels[..., :3]


def palette(root):
    image = Image.fromarray(noise(SIDE, SIDE, 3)).quantize(16)
    image.save(root / "test/left/0.png", transparency=3)
    shown = np.asarray(image.convert("RGB"))
    return np.where(np.asarray(image)[..., None] == 3, 0, shown)


def grey(root):
    pixels = noise(SIDE, SIDE)
    Image.fromarray(pixels).save(root / "test/left/0.png")
    return np.repeat(pixels[..., None], 3, 2)


def grey_alpha(root):
    pixels = noise(SIDE, SIDE, 2)
    pixels[..., 1] = np.where(np.arange(SIDE) < 4, 0, 255)
    Image.fromarray(pixels, "LA").save(root / "test/left/0.png")
    return np.repeat(np.where(pixels[..., 1:] == 0, 0, pixels[..., :1]), 3, 2)


def cmyk(root):
    image = Image.fromarray(noise(SIDE, SIDE, 4), "CMYK")
    image.save(root / "test/left/0.tif")
    (root / "test/left/0.png").unlink()
    return np.asarray(image.convert("RGB"))


def jpeg_called_png(root):
    image = Image.fromarray(noise(SIDE, SIDE, 3))
    image.save(root / "test/left/0.png", format="JPEG")
    return np.asarray(Image.open(root / "test/left/0.png"))


@pytest.mark.filterwarnings("ignore:'mode' parameter is deprecated:DeprecationWarning")
@pytest.mark.parametrize(
    ("make", "said"),
    [
        (turned, "1 images turned as their EXIF orientation says"),
        (transparent, "1 images with transparent parts laid on black"),
        (palette, "1 images with transparent parts laid on black"),
        (grey_alpha, "1 images with transparent parts laid on black"),
        (grey, "1 images in grey given three equal channels"),
        (cmyk, "1 images in CMYK turned into RGB without a colour profile"),
        (opaque, None),
        (jpeg_called_png, None),
    ],
)
def test_what_is_changed_is_said_and_counted_and_is_what_the_page_says(root, make, said):
    expected = make(root)
    told = []
    held = load_test(Data(name="folder", path=root), ("left", "right"), None, told.append)
    assert np.array_equal(held.images[0].numpy(), expected.transpose(2, 0, 1))
    assert told == ([] if said is None else [said])


def test_an_image_that_is_turned_has_the_shape_it_shows(root):
    for path in root.glob("*/*/*.png"):
        exif = Image.Exif()
        exif[0x0112] = 8
        Image.fromarray(noise(6, 10, 3)).save(path, exif=exif)
    assert read(root)[0].image_shape == (3, 10, 6)


def test_all_images_of_another_size_are_told_and_never_left_out(root):
    for number in range(3):
        Image.new("RGB", (9, 5)).save(root / f"train/left/odd{number}.png")
    with pytest.raises(DataError, match=r"(?s)odd0\.png is 5×9.*odd2\.png is 5×9"):
        read(root, skip_unreadable=True)


def left_behind(root):
    for name in ("._0.png", ".hidden.png"):
        (root / "train/left" / name).write_bytes(b"not an image")
    for name in (".cache", "__MACOSX", "@eaDir"):
        (root / "train/left" / name).mkdir()
        (root / "train/left" / name / "0.png").write_bytes(b"not an image")
        (root / "train" / name).mkdir()
    (root / "train/notes.txt").write_text("beside the classes")


def circle(root):
    (root / "train/left/again").symlink_to(root / "train/left")
    (root / "train/left/deep").mkdir()
    (root / "train/left/deep/up").symlink_to("..")


def nested(root):
    (root / "train/left/deep/er").mkdir(parents=True)
    (root / "train/left/0.png").rename(root / "train/left/deep/er/0.png")


def linked(root):
    (root / "train/right").rename(root.parent / "right")
    (root / "train/right").symlink_to(root.parent / "right")


@pytest.mark.parametrize("make", [left_behind, nested, linked])
def test_what_lies_in_a_folder_without_being_an_image_does_no_harm(root, make):
    make(root)
    loaded, _ = read(root)
    assert len(loaded.train) + len(loaded.validation) == 10
    assert loaded.classes == ("left", "right")


def test_links_in_circles_end(root):
    circle(root)
    loaded, _ = read(root)
    assert loaded.classes == ("left", "right")
    assert len(loaded.train) + len(loaded.validation) == 10


LINKS = {
    "left/up": "..",
    "left/all": "../..",
    "left/other": "../right",
    "left/deep_": "../right/deep",
    "same": "right",
}


@pytest.mark.parametrize("link", LINKS)
def test_a_link_to_images_of_another_class_is_refused(root, link):
    nested(root)
    (root / "train/right/deep").mkdir()
    (root / "train/right/0.png").rename(root / "train/right/deep/0.png")
    (root / "train" / link).symlink_to(LINKS[link])
    if link == "same":
        (root / "test/same").symlink_to("right")
    with pytest.raises(DataError, match=r"leads to images of other classes, in .*; remove that link"):
        read(root)


def test_one_image_of_another_size_is_told_and_not_all_others(root):
    for name in ("middle", "right"):
        shutil.copytree(root / "train/left", root / "train" / name, dirs_exist_ok=True)
        shutil.copytree(root / "test/left", root / "test" / name, dirs_exist_ok=True)
    first = min((root / "train/left").iterdir())
    Image.fromarray(np.zeros((9, 7), np.uint8)).save(first)
    with pytest.raises(DataError) as refused:
        read(root)
    assert str(refused.value).count("and others are") == 1
    assert f"{first} is 9×7 and others are" in str(refused.value)


def test_files_of_other_kinds_are_counted(root):
    for name in ("a.gif", "b.gif", "c.txt", "noname"):
        (root / "train/left" / name).write_bytes(b"x")
    _, told = read(root)
    assert told == ["4 images or other files passed over for their suffix (2 .gif, 1 .txt, 1 without suffix)"]


def empty_classes(root):
    for name in ("up", "down"):
        (root / "train" / name).mkdir()
        (root / "test" / name).mkdir()


def one_class(root):
    for part in ("train", "test"):
        for path in (root / part / "right").iterdir():
            path.unlink()
        (root / part / "right").rmdir()


def by_case(root):
    for part in ("train", "test"):
        (root / part / "Left").mkdir()


def escape(root):
    for part in ("train", "test"):
        (root / part / "left").rename(root / part / "le\x1b[2Jft")


def no_utf8(root):
    for part in ("train", "test"):
        os.rename(os.fsencode(root / part / "left"), os.fsencode(root / part) + b"/l\xff")  # noqa: PTH104


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (empty_classes, r"no image in .*down, .*up"),
        (one_class, "at least two; found left"),
        (by_case, "the class folders 'Left' and 'left'"),
        (escape, r"le\\x1b\[2Jft has a name that cannot be shown"),
        (no_utf8, r"l\\udcff has a name that cannot be shown"),
    ],
)
def test_folders_that_are_no_classes_are_explained(root, make, words):
    make(root)
    with pytest.raises(DataError, match=words):
        read(root)


def test_a_class_is_the_same_class_in_both_spellings_of_its_accent(root):
    (root / "train/left").rename(root / "train/e\u0301te\u0301")
    (root / "test/left").rename(root / "test/\u00e9t\u00e9")
    loaded, _ = read(root)
    assert loaded.classes == ("right", "\u00e9t\u00e9")


@pytest.mark.parametrize("size", [None, 1024])
def test_memory_is_looked_at_before_any_image_is_decoded(root, monkeypatch, size):
    decoded = []
    monkeypatch.setattr("robustdeploy.data.decode._pixels", lambda *given: decoded.append(given))
    monkeypatch.setattr(room, "available_bytes", lambda: 1000)
    with pytest.raises(DataError) as caught:
        read(root, size=size)
    said = str(caught.value)
    assert f"images of {size or SIDE}×{size or SIDE}" in said
    assert "1000 bytes are to be had here" in said
    assert "set data.size to 5 or less, or give fewer images" in said
    assert decoded == []


def test_a_test_set_that_no_memory_holds_is_told_before_the_training(root, monkeypatch):
    for number in range(40):
        Image.fromarray(noise(SIDE, SIDE, 3)).save(root / f"test/left/more{number}.png")
    monkeypatch.setattr(room, "available_bytes", lambda: 10 * 3 * SIDE * SIDE * 4)
    with pytest.raises(DataError, match="44 test images of 8×8"):
        read(root)


def test_digits_that_are_enlarged_beyond_memory_are_refused(monkeypatch):
    monkeypatch.setattr(room, "available_bytes", lambda: 10**8)
    with pytest.raises(DataError, match="images of 1024×1024"):
        load_data(Data(size=1024))


def test_what_is_to_be_had_is_less_than_all_and_obeys_the_limit_of_the_process():
    free = room.available_bytes()
    assert free is not None
    assert 2**20 < free < os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    code = (
        "import resource; from robustdeploy.core.room import available_bytes\n"
        "resource.setrlimit(resource.RLIMIT_AS, (2**32, 2**32)); print(available_bytes())"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert int(done.stdout) < 2**32


@pytest.mark.parametrize(
    ("files", "names", "expected"),
    [
        ({"memory.max": "1000", "memory.current": "300", "memory.stat": "inactive_file 50"}, "0::/", [750]),
        ({"memory.max": "max", "memory.current": "300", "memory.stat": ""}, "0::/", []),
        (
            {
                "a/memory.max": "1000",
                "a/memory.current": "900",
                "a/memory.stat": "",
                "a/b/memory.max": "max",
                "a/b/memory.current": "1",
                "a/b/memory.stat": "",
            },
            "0::/a/b",
            [100],
        ),
        (
            {
                "memory/memory.limit_in_bytes": "500",
                "memory/memory.usage_in_bytes": "100",
                "memory/memory.stat": "total_inactive_file 1",
            },
            "4:memory:/",
            [401],
        ),
    ],
)
def test_the_limits_of_control_groups_are_read(tmp_path, files, names, expected):
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    assert list(left_of_control_groups(tmp_path, names.splitlines())) == expected


def first(image, **options):
    """Put an image in the place of the first test image; the others stay in colour."""

    def save(root):
        image().save(root / "test/left/0.png", **options)

    return save


def all_grey(root):
    for path in root.glob("*/*/*.png"):
        Image.fromarray(noise(SIDE, SIDE)).save(path)


def one_in_colour(root):
    """Where the heads of all classes are grey, the set is."""
    all_grey(root)
    Image.fromarray(noise(SIDE, SIDE, 3)).save(root / "train/left/4.png")


PAGE = {
    "colour": first(lambda: Image.fromarray(noise(SIDE, SIDE, 3))),
    "grey, as all others are": all_grey,
    "grey beside colour": grey,
    "black and white beside colour": first(lambda: Image.new("1", (SIDE, SIDE), 1)),
    "colour beside grey": one_in_colour,
    "colour with transparent parts": transparent,
    "colour with alpha, opaque": opaque,
    "grey with transparent parts": grey_alpha,
    "palette": first(lambda: Image.fromarray(noise(SIDE, SIDE, 3)).quantize(16)),
    "palette with a transparent colour": palette,
    "CMYK": cmyk,
    "turned by its EXIF orientation": turned,
    "16 bits, grey": UNREADABLE["16 bits, grey"][0],
    "16 bits, colour": png_16,
    "floats": UNREADABLE["floats"][0],
    "several pictures in one file": animated("odd.png"),
    "another format under such a name": written(EPS_FILE),
    "cut off": cut,
    "empty": written(b""),
    "above 100 megapixels": UNREADABLE["huge by its head"][0],
    "of another size": saved(lambda: Image.new("RGB", (9, 5))),
    "another suffix": written(b"x", "odd.gif"),
}
TABLE = [
    [cell.strip() for cell in line.strip("|").split("|")]
    for line in (Path(__file__).parents[2] / "docs/data.md").read_text().partition("| step |")[0].splitlines()
    if line.startswith("| ") and not line.startswith("| image ")
]


def test_the_page_tells_of_every_kind_of_image():
    assert {row[0] for row in TABLE} == set(PAGE)


@pytest.mark.filterwarnings("ignore:'mode' parameter is deprecated:DeprecationWarning")
@pytest.mark.parametrize(("image", "mode", "outcome", "told"), TABLE, ids=[row[0] for row in TABLE])
def test_what_the_page_says_of_an_image_is_what_becomes_of_it(root, image, mode, outcome, told):
    PAGE[image](root)
    made = [*root.glob("*/*/odd.*")] or [*root.glob("test/left/0.*")]
    if mode.startswith("`") and image != "colour beside grey":
        with Image.open(made[0]) as opened:
            assert f"`{opened.mode}`" == mode
    words, said = told.strip("`"), []
    if outcome.startswith("refused"):
        with pytest.raises(DataError, match=re.escape(words)):
            read(root)
        if outcome == "refused":
            assert read(root, skip_unreadable=True)[0].facts()["unreadable_skipped"] == 1
        else:
            with pytest.raises(DataError, match=re.escape(words)):
                read(root, skip_unreadable=True)
        return
    load_test(Data(name="folder", path=root), ("left", "right"), None, said.append)
    said += read(root)[1] if outcome == "passed over" else []
    assert (words in " ".join(said)) == (outcome in ("changed", "passed over"))
    assert bool(said) == (outcome != "read")
