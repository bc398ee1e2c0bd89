"""Every example in CONTRIBUTING.md is a real plug-in: installed, held to its protocol, and part of one whole run."""

import importlib.util
import json
import os
import re
import subprocess
import sys
import tomllib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from robustdeploy.core.registry import REGISTRIES
from robustdeploy.data.noise import Noise
from robustdeploy.export.agent import build_agent
from robustdeploy.onboard.draws import Draws
from robustdeploy.onboard.types import Threat

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "CONTRIBUTING.md").read_text()
BLOCK = re.compile(r"^```\w+ (robustdeploy_mine/\S+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
FILES = dict(BLOCK.findall(PAGE))
GROUPS = tomllib.loads(FILES["robustdeploy_mine/pyproject.toml"])["project"]["entry-points"]
KINDS = {kind: name for kind, registry in REGISTRIES.items() for name in GROUPS.get(registry.group, {})}


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """A folder that looks like site-packages with the page's package installed."""
    site = tmp_path_factory.mktemp("site")
    for name, text in FILES.items():
        (site / name).parent.mkdir(exist_ok=True)
        (site / name).write_text(text)
    (site / "robustdeploy_mine" / "__init__.py").write_text("")
    info = site / "robustdeploy_mine-0.1.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: robustdeploy-mine\nVersion: 0.1\n")
    lines = [f"[{group}]\n" + "".join(f"{k} = {v}\n" for k, v in entries.items()) for group, entries in GROUPS.items()]
    (info / "entry_points.txt").write_text("\n".join(lines))
    return site


@pytest.fixture
def registries(site, monkeypatch):
    """The registries as they are in a process that was started with the package installed."""
    monkeypatch.syspath_prepend(str(site))
    return {kind: replace(registry) for kind, registry in REGISTRIES.items()}


def robustdeploy(site, cwd, *arguments):
    environment = {**os.environ, "PYTHONPATH": str(site), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-W", "error::DeprecationWarning:robustdeploy", "-m", "robustdeploy", *arguments]
    return subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, timeout=300, check=False)


def test_the_page_has_an_example_of_every_kind_in_a_file_of_its_own():
    assert set(KINDS) == set(REGISTRIES)
    named = {value.partition(":")[0].replace(".", "/") + ".py" for group in GROUPS.values() for value in group.values()}
    assert named == {name for name in FILES if name.endswith(".py")}
    assert {f"`{registry.group}`" for registry in REGISTRIES.values()} <= set(re.findall(r"`[\w.-]+`", PAGE))


@pytest.mark.parametrize("kind", sorted(REGISTRIES))
def test_the_folder_the_page_names_is_the_one_that_is_searched(kind):
    folder = REGISTRIES[kind].package.replace(".", "/")
    row = rf"\| `{re.escape(folder)}/` \| `{re.escape(REGISTRIES[kind].group)}` \|"
    assert re.search(row, PAGE)


@pytest.mark.parametrize("kind", sorted(KINDS))
def test_an_example_is_found_summarised_and_built(kind, registries):
    registry, name = registries[kind], KINDS[kind]
    assert name in registry.names()
    assert registry.summary(name).endswith((".", ")"))
    assert registry.json_schema(name)["additionalProperties"] is False
    assert type(registry.build(name, {})) is registry.get(name)
    assert registry.problems(name, {"nonsense": 1})


@pytest.mark.parametrize("kind", sorted(KINDS))
def test_an_example_works_as_a_file_of_this_repository_too(kind, site, registries):
    """It is recognised by its ``plugin`` line, and that line names what the entry point names."""
    text = registries[kind].origin(KINDS[kind]).read_text()
    assert re.search(r"^plugin = (\w+)$", text, re.MULTILINE).group(1) == registries[kind].get(KINDS[kind]).__name__


def test_the_gradient_attack_stays_in_the_box_and_finds_what_noise_does_not(registries):
    torch.manual_seed(0)
    net = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 3)).eval()
    images = torch.randint(0, 256, (32, 1, 8, 8)).float() / 255
    labels, threat = net(images).argmax(1), Threat(eps=8 / 255)
    found = registries["attacks"].build("mi-fgsm", {})(net, images, labels, threat, Noise(1, torch.arange(32)))
    assert (found - images).abs().max() <= threat.eps + 1e-6
    noise = images + threat.eps * (2 * torch.rand_like(images) - 1)
    assert (net(found).argmax(1) != labels).sum() > (net(noise).argmax(1) != labels).sum()


def test_the_query_attack_stays_in_the_box_and_treats_each_image_alone(registries):
    weights = np.random.default_rng(0).normal(size=(64, 3)).astype(np.float32)
    asked = []

    def model(images):
        asked.append(len(images))
        return images.reshape(len(images), -1) @ weights

    images = np.random.default_rng(1).integers(0, 256, (10, 1, 8, 8), dtype=np.uint8)
    labels, threat = model(images).argmax(1), Threat(eps=8 / 255)
    attack, asked[:] = registries["query-attacks"].build("corners", {"queries": 7}), []
    found = attack(model, images, labels, threat, Draws(5, np.arange(10)))
    assert sum(asked) == 70
    low, high = threat.box(images)
    assert ((found >= low) & (found <= high)).all()
    alone = attack(model, images[3:5], labels[3:5], threat, Draws(5, np.arange(3, 5)))
    np.testing.assert_array_equal(alone, found[3:5])


def test_a_board_plug_in_of_another_package_must_be_findable_there(site, tmp_path):
    text = FILES["robustdeploy_mine/corners.py"].replace("plugin = Corners", "")
    (tmp_path / "corners.py").write_text(text)
    with pytest.raises(Exception, match="ends with 'plugin = …'"):
        build_agent(tmp_path / "agent.pyz", {"attacks/corners": tmp_path / "corners.py"})


def test_the_recipe_and_the_target_are_valid_once_the_package_is_installed(site):
    files = ["robustdeploy_mine/mine.yaml", "robustdeploy_mine/slow-lane.yaml"]
    done = robustdeploy(site, site, "validate", *files)
    assert (done.returncode, done.stdout.count(": ok")) == (0, 2), done.stderr


@pytest.mark.slow
def test_one_run_takes_all_of_them_from_the_data_to_the_format(site, tmp_path):
    recipe, target = site / "robustdeploy_mine/mine.yaml", site / "robustdeploy_mine/slow-lane.yaml"
    done = robustdeploy(site, tmp_path, "run", str(recipe), "--target", str(target), "--track", "epochs-csv", "--quiet")
    assert done.returncode in (0, 1, 3), done.stderr
    done = robustdeploy(site, tmp_path, "report", "--format", "csv", "--quiet")
    assert done.returncode == 0, done.stderr
    report = json.loads((tmp_path / "runs/latest/report.json").read_text())
    board = [row for row in report["measurements"] if row["subject"] == "pruned/fp32@slow-lane"]
    assert {"fgsm", "mi-fgsm-5", "corners-10", "worst"} <= {row["attack"] for row in board}
    assert next(row["value"] for row in board if row["metric"] == "attack_queries") == 10
    assert report["subjects"][0]["board"]["backend"] == "onnx-reference"
    assert report["subjects"][0]["board"]["where"] == "this machine at nice 10"
    assert 0.97 * 0.5 < report["budget"]["macs"] / report["budget"]["dense_macs"] <= 0.5
    epochs = (tmp_path / "runs/latest/tracking/epochs.csv").read_text().splitlines()
    told = [line.split(",")[:2] for line in epochs[1:] if ",epoch," in line]
    assert told == [[place, str(epoch)] for place in ("dense", "train") for epoch in (1, 2, 3)]
    lines = (tmp_path / "runs/latest/rows.csv").read_text().splitlines()
    assert len(lines) == 1 + len(report["measurements"])
    with np.load(tmp_path / "runs/latest/boards/pruned/fp32@slow-lane/outcomes.npz") as outcomes:
        distance = np.abs(outcomes["corners-10/images"].astype(int) - outcomes["images"])
    assert distance.max() == 8


def test_the_test_map_names_files_that_exist():
    for name in re.findall(r"`(tests/test_\w+\.py|scripts/\w+)`", PAGE):
        assert (ROOT / name).is_file(), name


def test_every_floor_of_the_contract_is_on_the_page_in_order():
    contract = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"][0]
    floors = [layer.replace("robustdeploy.", "") for layer in contract["layers"]]
    picture = PAGE.partition("## The floors")[2].partition("```\n")[2].partition("```")[0]
    shown = [line.rpartition("  ")[0].split("  ")[0].strip() for line in picture.splitlines() if line.strip()]
    assert shown == floors
    assert all(importlib.util.find_spec(f"robustdeploy.{name}") for floor in floors for name in floor.split(" | "))
