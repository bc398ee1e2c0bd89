"""A run folder that somebody sent: nothing it names is imported or started, and what is one's own needs no flag."""

import hashlib
import json
import shutil

import pytest
import safetensors.torch

from robustdeploy.core.recipe import Choice
from robustdeploy.nets import store

pytestmark = pytest.mark.slow

MINE = """
from torch import nn
{loud}

def small(num_classes, in_channels, width=8):
    body = nn.Conv2d(in_channels, width, 3, padding=1), nn.BatchNorm2d(width), nn.ReLU()
    return nn.Sequential(*body, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, num_classes))
"""
RECIPE = """
name: own
net: {name: own_nets:small, width: 6}
threat: {eps: 0.1}
train: {task: fastat, epochs: 1, batch_size: 64, device: cpu}
baseline: false
evaluate: {limit: 20, curve_limit: 10, eps_curve: [], attacks: [fgsm]}
"""


def renamed(folder, choice):
    """Put another net's name into a folder's net.json, with digests that agree, as its sender can."""
    info = store.load_info(folder).model_copy(update={"net": choice, "weights_sha256": ""})
    state = safetensors.torch.load((folder / store.WEIGHTS_FILE).read_bytes())
    content = safetensors.torch.save(state, metadata={"net_json": store._digest(info)})
    info = info.model_copy(update={"weights_sha256": hashlib.sha256(content).hexdigest()})
    return {store.NET_FILE: info.model_dump_json().encode(), store.WEIGHTS_FILE: content}


def hub_folder(folder, mark):
    """A folder as ``torch.hub.load(folder, "make", source="local")`` takes it."""
    folder.mkdir()
    (folder / "hubconf.py").write_text(f"open({str(mark)!r}, 'w')\ndef make(**_): pass\n")
    return Choice(name="torch.hub:load", options={"repo_or_dir": str(folder), "model": "make", "source": "local"})


@pytest.mark.parametrize("net", ["torch.hub", "a module beside the run"])
@pytest.mark.parametrize("command_of", ["export", "evaluate"])
def test_a_net_that_a_sent_run_names_is_not_imported(desk, refused, reseal, net, command_of):
    run, mark = desk / "runs/tiny", desk / "mark"
    (desk / "sent_nets.py").write_text(f"open({str(mark)!r}, 'w')\ndef make(num_classes): pass\n")
    choice = hub_folder(desk / "hub", mark) if net == "torch.hub" else Choice(name="sent_nets:make")
    changed = renamed(run / "nets/pruned", choice)
    reseal(run, "nets/pruned", changed)
    read = {f"nets/pruned/{name}": content for name, content in changed.items()}
    reseal(run, "onnx/pruned/fp32", {}, inputs=read)
    words = [command_of, "--target", "quick.yaml", "--force"]
    said = refused(desk, *words, writes=True)
    assert choice.name in said
    if net == "torch.hub":
        assert "torch.hub belongs to torch" in said
        assert "torch.hub belongs to torch" in refused(desk, *words, "--trust", writes=True)
    else:
        assert "sent_nets.py; only that file asked for it" in said
        assert "--trust" in said
    assert not mark.exists()


@pytest.mark.parametrize("where", ["an initializer", "a constant"])
def test_an_onnx_file_that_reads_another_file_is_not_opened(desk, refused, reseal, where):
    import onnx

    path = desk / "runs/tiny/onnx/pruned/fp32/model.onnx"
    model = onnx.load(path)
    tensor = model.graph.initializer[0]
    if where == "a constant":
        node = onnx.helper.make_node("Constant", [], ["extra"], value=tensor)
        model.graph.node.insert(0, node)
        tensor = model.graph.node[0].attribute[0].t
    onnx.external_data_helper.set_external_data(tensor, "../../../../../../etc/passwd", 0, 16)
    tensor.ClearField("raw_data")
    tensor.data_location = onnx.TensorProto.EXTERNAL
    reseal(desk / "runs/tiny", "onnx/pruned/fp32", {"model.onnx": model.SerializeToString()})
    said = refused(desk, "evaluate", "--target", "quick.yaml", "--force", writes=True)
    assert "from '../../../../../../etc/passwd'; such a file is not used" in said


@pytest.fixture(scope="module")
def own(tmp_path_factory, command):
    """A folder with a net of one's own, trained and not exported yet."""
    folder = tmp_path_factory.mktemp("own")
    (folder / "own_nets.py").write_text(MINE.format(loud=""))
    (folder / "own.yaml").write_text(RECIPE)
    (folder / "quick.yaml").write_text(
        "extends: host-cpu\nname: quick\nlatency: {warmup_s: 0, min_s: 0.05, max_s: 1, min_samples: 70}\n"
    )
    done = command(folder, "prune", "own.yaml", "--name", "own")
    assert done.code == 0, done.err
    return folder


@pytest.fixture
def given(own, tmp_path):
    """The trained net alone, with the recipe that it names, as it would be sent to somebody."""
    folder = tmp_path / "given"
    folder.mkdir()
    for name in ("runs/own/nets/dense/net.json", "runs/own/nets/dense/model.safetensors"):
        shutil.copy(own / name, folder)
    shutil.copy(own / "own.yaml", folder / "recipe.yaml")
    for name in ("own.yaml", "quick.yaml"):
        shutil.copy(own / name, tmp_path)
    return folder


def test_ones_own_net_needs_no_flag_from_training_to_evaluation(own, command):
    for name in ("export", "evaluate"):
        done = command(own, name, "--target", "quick.yaml")
        assert done.code == 0, done.err
    remembered = [json.loads(path.read_text()) for path in own.parent.rglob("state*/robustdeploy/factories/*.json")]
    assert "own_nets:small" in [each["name"] for each in remembered]


def as_somebody_else(monkeypatch, folder):
    monkeypatch.setenv("XDG_STATE_HOME", str(folder / "somebody"))


@pytest.mark.parametrize("words", [["--recipe", "own.yaml"], ["--trust"]])
def test_a_stored_net_is_evaluated_with_the_users_word(given, own, command, refused, monkeypatch, words):
    as_somebody_else(monkeypatch, given)
    folder = given.parent
    said = refused(folder, "evaluate", "given", "--target", "quick.yaml")
    assert "given names the factory {name: own_nets:small, width: 6}" in said
    done = command(folder, "evaluate", "given", "--target", "quick.yaml", *words)
    assert done.code == 0, done.err
    assert (folder / "runs/given/boards/imported/fp32@quick/outcomes.npz").is_file()


def test_a_recipe_that_names_another_factory_or_other_options_is_no_word_for_this_one(given, refused, monkeypatch):
    as_somebody_else(monkeypatch, given)
    folder = given.parent
    other = (folder / "own.yaml").read_text()
    for text in (other.replace("width: 6", "width: 7"), other.replace("own_nets:small", "own_nets:large"), "name: x"):
        (folder / "other.yaml").write_text(text)
        said = refused(folder, "evaluate", "given", "--recipe", "other.yaml", "--target", "quick.yaml")
        assert "given names the factory" in said


def test_a_sent_run_with_a_factory_needs_the_users_word_for_every_step(own, command, refused, monkeypatch, tmp_path):
    folder = tmp_path / "there"
    shutil.copytree(own, folder, symlinks=True)
    as_somebody_else(monkeypatch, tmp_path)
    export = ["export", "own", "--target", "quick.yaml", "--force"]
    assert "--trust" in refused(folder, *export, writes=True)
    assert command(folder, *export, "--trust").code == 0
    evaluate = ["evaluate", "own", "--target", "quick.yaml", "--force"]
    assert "--trust" in refused(folder, *evaluate, writes=True)
    named = command(folder, *evaluate, "--set", "net={name: own_nets:small, width: 6}")
    assert named.code == 0, named.err
    for words in (["report", "own"], ["verify", "own"]):  # these call no code of the net's
        assert command(folder, *words).code == 0
