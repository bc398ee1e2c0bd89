"""The page of supported nets: it names every classifier that torchvision lists, and what it says is found again."""

import importlib.util
import sys
from pathlib import Path
from unittest.mock import Mock

import pytest

from robustdeploy.core.recipe import Choice
from robustdeploy.cost import flop_counter
from robustdeploy.cost.module import repeated_macs
from robustdeploy.errors import DataError
from robustdeploy.nets.build import build_net

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "supported.md"
COMMAND = "run `python benchmarks/supported.py`, which writes docs/supported.md"
TRIED = ("pruned: ", "left whole: ", "refused: ")
NOT_KNOWN = "not known: "
"""What is said of a net that took more time or memory than it was given, with which of the two."""
SMALL = 20e6
"""Parameters of a net that takes neither time nor memory to try."""


@pytest.fixture(scope="module")
def supported():
    """The command, as a module."""
    sys.path.insert(0, str(ROOT / "benchmarks"))
    try:
        spec = importlib.util.spec_from_file_location("supported", ROOT / "benchmarks" / "supported.py")
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        yield module
    finally:
        sys.path.remove(str(ROOT / "benchmarks"))


def page():
    """What the page says becomes of each net, by its name."""
    lines = [line.split("|")[1:-1] for line in PAGE.read_text(encoding="utf-8").splitlines() if line.startswith("| ")]
    cells = [[cell.strip() for cell in line] for line in lines]
    return {row[0].strip("`"): row[1 if len(row) == 2 else 4] for row in cells}


def unsaid(names, told):
    """The names whose row is missing, or does not say what becomes of the net."""
    return [name for name in names if not told.get(name, "").startswith((*TRIED, NOT_KNOWN))]


def test_every_classifier_and_every_kind_is_on_the_page_with_what_becomes_of_it(supported):
    missing = unsaid((*supported.names(), *supported.KINDS), page())
    assert not missing, f"{', '.join(missing)}: {COMMAND}"


def test_a_classifier_that_torchvision_adds_is_missed(supported):
    assert unsaid([*supported.names(), "resnet1001"], page()) == ["resnet1001"]


def test_only_large_nets_were_not_tried(supported):
    told = page()
    lost = [name for name in supported.names() if not told[name].startswith(TRIED)]
    small = [name for name in lost if supported.size(name) < SMALL]
    assert not small, f"{', '.join(small)}: {COMMAND}"


@pytest.mark.parametrize("name", ["mnasnet1_3", "resnet152", "vit_h_14"])
def test_a_net_that_is_not_tried_is_counted(name, supported):
    row, told = supported.lost(name, "there was no time"), PAGE.read_text(encoding="utf-8")
    assert supported.line(row).startswith(f"| `{name}` | {row['side']} | {row['macs'] / 1e6:,.1f} M | ")
    assert supported.line(row).partition("not known")[0] in told, COMMAND


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        RuntimeError("[enforce fail at alloc_cpu.cpp:127] DefaultCPUAllocator: can't allocate memory"),
        DataError("a training step would take about 9 GiB of memory, and 1 GiB are to be had here; set less"),
    ],
)
def test_a_net_that_takes_more_memory_than_it_is_given_is_not_called_refused(error, supported, monkeypatch):
    monkeypatch.setattr(supported, "_found", Mock(side_effect=error))
    assert supported.told(supported.tried("resnet18")) == f"{NOT_KNOWN}{supported.TOO_LITTLE}"


def test_a_net_that_takes_too_long_is_ended_and_named(supported, monkeypatch):
    monkeypatch.setattr(supported, "PATIENCE_S", 0)
    row = supported._in_a_process("squeezenet1_1")
    assert supported.told(row) == f"{NOT_KNOWN}it was not done after 0 minutes"


def test_small_nets_come_first(supported):
    names = sorted(supported.names(), key=supported.size)
    assert (names[0], names[-1]) == ("squeezenet1_1", "regnet_y_128gf")


def test_an_error_that_is_none_of_ours_is_not_written_on_the_page(supported, monkeypatch):
    monkeypatch.setattr(supported, "_found", Mock(side_effect=RuntimeError("a fault of the command itself")))
    with pytest.raises(RuntimeError, match="a fault of the command itself"):
        supported.tried("resnet18")


@pytest.mark.parametrize("name", ["mobilenet_v3_small", "resnet18", "swin_v2_t", "vit_b_32"])
def test_two_ways_of_counting_agree_with_the_page(name, supported):
    choice, shape = supported.choice(name)
    options = {option: value for option, value in choice.items() if option != "name"}
    net = build_net(Choice(name=choice["name"], options=options), 10, shape, [0.5] * 3, [0.5] * 3)
    counted = flop_counter.macs(net, shape) - repeated_macs(net, shape)
    assert f"| `{name}` | {shape[1]} | {counted / 1e6:,.1f} M |" in PAGE.read_text(encoding="utf-8")


@pytest.mark.slow
@pytest.mark.parametrize(
    "name",
    [
        "squeezenet1_1",
        "a Fourier transform",
        "a recurrent layer (nn.LSTM)",
        "attention by einsum",
        "channel shuffle",
        "dropout that is always on",
        "shortcut of padded channels",
        "two outputs",
        "weights that two layers share",
    ],
)
def test_a_net_that_is_tried_again_has_its_row_on_the_page(name, supported):
    assert not supported.untrue([supported.tried(name)]), COMMAND


def test_a_row_that_says_something_else_is_found(supported):
    row = {"net": "resnet18", "side": 64, "macs": 1, "params": 1, "groups": 1, "channels": 1, "left": {}, "seconds": 1}
    assert supported.untrue([row]) == ["| `resnet18` | 64 | 0.0 M | 0.00 M | pruned: 1 group, 1 channels | 1 |"]


def test_comments_do_not_decide_and_constants_do(supported):
    assert supported._code('def f():\n    """Say."""\n    return 1  # one') == supported._code("def f():\n    return 1")
    assert supported._code("LIMIT = 1") != supported._code("LIMIT = 2")
    files = {str(file.relative_to(ROOT)) for file in supported.deciding()}
    assert {"robustdeploy/prune/follow.py", "robustdeploy/nets/twin.py", "benchmarks/structures.py"} <= files
    assert not files & {"robustdeploy/nets/store.py", "robustdeploy/export/agent.py", "robustdeploy/core/files.py"}


@pytest.mark.parametrize(
    ("name", "family"),
    [
        ("regnet_y_128gf", "regnet_y"),
        ("efficientnet_b7", "efficientnet"),
        ("efficientnet_v2_l", "efficientnet_v2"),
        ("vgg19_bn", "vgg_bn"),
        ("wide_resnet50_2", "wide"),
        ("channel shuffle", "channel shuffle"),
    ],
)
def test_nets_of_one_family_differ_in_size(name, family, supported):
    assert supported.family(name) == family


@pytest.mark.parametrize("groups", [1, 2])
def test_rows_of_earlier_code_are_taken_over_where_the_smallest_is_the_same(groups, supported, monkeypatch, tmp_path):
    def row(name, groups=1):
        counts = {"macs": 1, "params": 1, "groups": groups, "channels": 1}
        return {"net": name, "side": 64, **counts, "left": {}, "seconds": 9}

    monkeypatch.setattr(supported, "PAGE", tmp_path / "page.md")
    supported.PAGE.write_text(supported.table([row("vgg11"), row("vgg19")]))
    tried = []
    monkeypatch.setattr(supported, "_in_a_process", lambda name: (tried.append(name), row(name, groups))[1])
    monkeypatch.setattr(supported, "_load", lambda: None)
    monkeypatch.setattr(sys, "argv", ["supported.py", "vgg19", "vgg11", "--kept", str(tmp_path), "--earlier"])
    assert supported.main() == 0
    assert tried == (["vgg11"] if groups == 1 else ["vgg11", "vgg19"])


def test_a_net_that_was_not_tried_is_no_row_to_take_over(supported):
    assert {"resnet18", "a plain chain"} <= set(supported.written())
    assert not any("not known" in line for line in supported.written().values())
