"""Every example in docs/how-to is a real plug-in: installed, held to its protocol, run by the commands of its page."""

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

from robustdeploy.attacks.losses import margin_loss
from robustdeploy.core.registry import REGISTRIES
from robustdeploy.data.noise import Noise
from robustdeploy.export.agent import build_agent
from robustdeploy.onboard.draws import Draws
from robustdeploy.onboard.types import Threat

ROOT = Path(__file__).parents[1]
FOLDER = ROOT / "docs" / "how-to"
# The first page makes the run that the others try things on.
PAGES = {path.name: path.read_text() for path in (FOLDER / "README.md", *sorted(FOLDER.glob("add-*.md")))}
BLOCK = re.compile(r"^```(\w+) robustdeploy_mine/(\S+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
BLOCKS = [(page, *found) for page, text in PAGES.items() for found in BLOCK.findall(text)]
FILES = {name: text for _, language, name, text in BLOCKS if language != "toml"}
ENTRIES = [
    (page, group, name, value)
    for page, language, _, text in BLOCKS
    if language == "toml"
    for group, entries in tomllib.loads(text)["project"]["entry-points"].items()
    for name, value in entries.items()
]
KIND_OF = {registry.group: kind for kind, registry in REGISTRIES.items()}
EXAMPLES = [(KIND_OF[group], name) for _, group, name, _ in ENTRIES]
COMMAND = re.compile(r"^    (robustdeploy .+)$", re.MULTILINE)
LAST = "add-a-report-format.md"

# All commands in one process: most of what a single one takes is the import of torch.
RUN_ALL = """
import json, shlex, sys, warnings
from robustdeploy.cli import main
warnings.filterwarnings("error", category=DeprecationWarning, module="robustdeploy")
codes, streams = [], (sys.stdout, sys.stderr)
for line in json.load(sys.stdin):
    print("$", line, file=sys.stderr, flush=True)
    sys.argv = shlex.split(line) + (["--quiet"] if " validate " not in line and " doctor " not in line else [])
    try:
        main()
    except SystemExit as end:
        codes.append(end.code or 0)
    sys.stdout, sys.stderr = streams
print(json.dumps(codes))
"""


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """A folder that looks like site-packages with the pages' package installed."""
    site = tmp_path_factory.mktemp("site")
    package = site / "robustdeploy_mine"
    package.mkdir()
    (package / "__init__.py").write_text("")
    for name, text in FILES.items():
        (package / name).write_text(text)
    info = site / "robustdeploy_mine-0.1.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: robustdeploy-mine\nVersion: 0.1\n")
    (info / "entry_points.txt").write_text(_by_group())
    return site


def _by_group():
    groups = {}
    for _, group, name, value in ENTRIES:
        groups.setdefault(group, []).append(f"{name} = {value}")
    return "\n".join(f"[{group}]\n" + "\n".join(lines) + "\n" for group, lines in groups.items())


@pytest.fixture
def registries(site, monkeypatch):
    """The registries as they are in a process that was started with the package installed."""
    monkeypatch.syspath_prepend(str(site))
    return {kind: replace(registry) for kind, registry in REGISTRIES.items()}


def test_every_kind_has_an_example_on_a_page_of_its_own():
    assert {kind for kind, _ in EXAMPLES} == set(REGISTRIES)
    by_page = {}
    for page, group, _, _ in ENTRIES:
        by_page.setdefault(page, set()).add(group)
    assert sorted(map(len, by_page.values())) == [1] * len(REGISTRIES)
    named = {value.partition(":")[0].removeprefix("robustdeploy_mine.") + ".py" for *_, value in ENTRIES}
    assert named == {name for name in FILES if name.endswith(".py")}


@pytest.mark.parametrize("page", PAGES)
def test_every_page_says_how_to_try_it(page):
    assert COMMAND.search(PAGES[page])
    assert page == "README.md" or "## Try it" in PAGES[page]


@pytest.mark.parametrize("kind", sorted(REGISTRIES))
def test_the_folder_that_is_named_is_the_one_that_is_searched(kind):
    folder = REGISTRIES[kind].package.replace(".", "/")
    assert f"| `{folder}/` | `{REGISTRIES[kind].group}` |" in PAGES["README.md"]


@pytest.mark.parametrize(("kind", "name"), EXAMPLES)
def test_an_example_is_found_summarised_and_built(kind, name, registries):
    registry = registries[kind]
    assert name in registry.names()
    assert registry.summary(name).endswith((".", ")"))
    assert registry.json_schema(name)["additionalProperties"] is False
    assert type(registry.build(name, {})) is registry.get(name)
    assert registry.problems(name, {"nonsense": 1})


@pytest.mark.parametrize(("kind", "name"), EXAMPLES)
def test_an_example_works_as_a_file_of_this_repository_too(kind, name, registries):
    """It is recognised by its ``plugin`` line, and that line names what the entry point names."""
    text = registries[kind].origin(name).read_text()
    assert re.search(r"^plugin = (\w+)$", text, re.MULTILINE).group(1) == registries[kind].get(name).__name__


def test_the_gradient_attack_stays_in_the_box_and_finds_what_noise_does_not(registries):
    torch.manual_seed(0)
    net = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 3)).eval()
    images = torch.randint(0, 256, (32, 1, 8, 8)).float() / 255
    labels, threat = net(images).argmax(1), Threat(eps=8 / 255)
    found = registries["attacks"].build("mi-fgsm", {})(net, images, labels, threat, Noise(1, torch.arange(32)))
    assert (found - images).abs().max() <= threat.eps + 1e-6
    noise = images + threat.eps * (2 * torch.rand_like(images) - 1)
    assert (net(found).argmax(1) != labels).sum() > (net(noise).argmax(1) != labels).sum()


def test_the_distance_finds_wrong_images_and_none_nearer_than_the_boundary(registries):
    torch.manual_seed(0)
    net = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 2)).eval()
    images = torch.rand(32, 1, 8, 8)
    scores = net(images).detach()
    found = registries["distances"].build("straight-line", {})(
        net, images, scores.argmax(1), Noise(1, torch.arange(32))
    )
    exact = (scores[:, 0] - scores[:, 1]).abs() / (net[1].weight[0] - net[1].weight[1]).norm()
    assert (net(found).argmax(1) != scores.argmax(1)).all()
    # Two classes and one direction: the line is the shortest way.
    torch.testing.assert_close((found - images).flatten(1).norm(dim=1), exact.detach(), rtol=0, atol=1e-3)


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


def test_the_substitute_learns_from_labels_and_asks_for_whole_grey_levels(registries):
    torch.manual_seed(0)
    net, asked = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 3)), []

    def ask(images):
        asked.append(images)
        return net(images).argmax(1)

    images = torch.randint(0, 256, (200, 1, 8, 8)).float() / 255
    learnt = registries["substitutes"].build("mirror", {})(ask, images, 3, key=5)
    assert [len(each) for each in asked] == [200, 200]
    assert all(torch.equal(torch.round(each * 255) / 255, each) for each in asked)
    fresh = torch.rand(300, 1, 8, 8)
    assert (learnt(fresh).argmax(1) == net(fresh).argmax(1)).float().mean() > 0.7
    again = registries["substitutes"].build("mirror", {})(ask, images, 3, key=5)
    assert torch.equal(again(fresh), learnt(fresh))


def test_the_engine_attack_takes_what_the_engine_does_worst_on(registries):
    torch.manual_seed(0)
    twin = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 3)).eval()
    engine = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 3)).eval()
    engine.load_state_dict({name: value * 1.1 + 0.01 for name, value in twin.state_dict().items()})
    images = torch.randint(0, 256, (32, 1, 8, 8)).float() / 255
    labels, threat = engine(images).argmax(1), Threat(eps=16 / 255)
    asked = []

    def ask(sent, places):
        asked.append(places)
        assert torch.equal(torch.round(sent * 255) / 255, sent)
        return engine(sent).detach()

    found = registries["engine-attacks"].build("half-steps", {})(
        twin, ask, images, labels, threat, Noise(1, torch.arange(32))
    )
    assert [len(each) for each in asked] == [32] * 5
    assert (found - images).abs().max() <= threat.eps + 1e-6
    assert (margin_loss(engine(found), labels) >= margin_loss(engine(images), labels)).all()
    assert (engine(found).argmax(1) != labels).sum() > 10


def test_the_attack_made_of_others_keeps_the_worst_image_of_each_input(registries):
    torch.manual_seed(0)
    net = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 8), torch.nn.Tanh(), torch.nn.Linear(8, 3)).eval()
    with torch.no_grad():
        net[1].weight.mul_(10)  # so bent that one large step is not always the best
    images, threat = torch.randint(0, 256, (32, 1, 8, 8)).float() / 255, Threat(eps=32 / 255)
    labels, noise = net(images).argmax(1), Noise(1, torch.arange(32))
    choices = ["fgsm", {"name": "pgd", "steps": 3}]
    attack = registries["attacks"].build("strongest", {"attacks": choices})
    assert attack.label == "strongest-fgsm-pgd-3"
    alone = [part(net, images, labels, threat, noise) for part in attack.parts]
    reached = torch.stack([margin_loss(net(found), labels) for found in alone])
    assert set(reached.argmax(0).tolist()) == {0, 1}, "each of the two is the better one for some image"
    found = attack(net, images, labels, threat, noise)
    assert torch.equal(margin_loss(net(found), labels), reached.amax(0))


def test_a_board_plug_in_of_another_package_must_be_findable_there(tmp_path):
    (tmp_path / "corners.py").write_text(FILES["corners.py"].replace("plugin = Corners", ""))
    with pytest.raises(Exception, match="ends with 'plugin = …'"):
        build_agent(tmp_path / "agent.pyz", {"attacks/corners": tmp_path / "corners.py"})


FIRST = ("README.md", LAST)


def run_commands(pages, desk, site):
    """Run every command of some pages in one folder; with the exit code of each, and what they said."""
    commands = [command for page in pages for command in COMMAND.findall(PAGES[page])]
    environment = {**os.environ, "PYTHONPATH": str(site), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-c", RUN_ALL],
        cwd=desk,
        env=environment,
        input=json.dumps(commands),
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    # A verdict may be any: nets of one epoch are judged.
    codes = zip(commands, json.loads(done.stdout.splitlines()[-1]), strict=True)
    assert [line for line, code in codes if code not in (0, *((1, 3) if " run " in line else ()))] == [], done.stderr


@pytest.fixture(scope="module")
def tried(site, tmp_path_factory):
    """Where the commands of the first page have been run: a recipe that takes an example of every kind."""
    desk = tmp_path_factory.mktemp("desk")
    for name, text in FILES.items():
        if name.endswith(".yaml"):
            (desk / name).write_text(text)
    run_commands(FIRST, desk, site)
    return desk


@pytest.fixture(scope="module")
def all_tried(tried, site):
    """Where every command of every page has been run."""
    run_commands([page for page in PAGES if page not in FIRST], tried, site)
    return tried


@pytest.mark.slow
def test_one_run_takes_all_of_them_from_the_data_to_the_format(tried):
    run = tried / "runs/mine"
    report = json.loads((run / "report.json").read_text())
    board = [row for row in report["measurements"] if row["subject"] == "pruned/fp32@slow-lane"]
    attacks = {"fgsm", "mi-fgsm-5", "strongest-fgsm-mi-fgsm-3", "corners-10", "mirror", "half-steps", "worst"}
    attacks |= {"first-look-pgd-2", "first-look-square-5", "first-look-2-5"}
    assert attacks <= {row["attack"] for row in board}
    assert next(row["value"] for row in board if row["metric"] == "attack_queries") == 10
    assert next(row["n"] for row in report["measurements"] if row["metric"] == "r2") > 0
    assert report["subjects"][0]["board"]["backend"] == "onnx-reference"
    assert report["subjects"][0]["board"]["where"] == "this machine at nice 10"
    assert 0.97 * 0.5 < report["budget"]["macs"] / report["budget"]["dense_macs"] <= 0.5
    assert report["data"]["train"] + report["data"]["validation"] == 300
    epochs = (run / "tracking/epochs.csv").read_text().splitlines()
    told = [line.split(",")[:2] for line in epochs[1:] if ",epoch," in line]
    assert told == [[f"nets/{net}", str(epoch)] for net in ("dense", "pruned") for epoch in (1, 2, 3)]
    lines = (run / "rows.csv").read_text().splitlines()
    assert len(lines) == 1 + len(report["measurements"])
    shares = [line for line in (run / "shares.csv").read_text().splitlines() if line.startswith("clean_accuracy,")]
    assert shares
    assert all(",%," in line for line in shares)
    with np.load(run / "boards/pruned/fp32@slow-lane/outcomes.npz") as outcomes:
        distance = np.abs(outcomes["corners-10/images"].astype(int) - outcomes["images"])
    assert distance.max() == 8


@pytest.mark.exhaustive
def test_the_pruner_in_phases_begins_with_the_dense_net_and_cuts_after_the_first(all_tried):
    nets = next(all_tried.glob("runs/ranked-*/nets/pruned"))
    records = [json.loads(line) for line in (nets / "metrics.jsonl").read_text().splitlines()]
    assert [record["phase"] for record in records] == ["rank", "fine-tune"]
    facts = json.loads((nets / "manifest.json").read_text())["facts"]
    assert 0.97 * 0.5 < facts["macs"] / facts["dense_macs"] <= 0.5


@pytest.mark.exhaustive
def test_an_engine_is_built_on_the_host_with_the_backends_options(all_tried):
    made = next(all_tried.glob("runs/try/engines/pruned/fp32@reference/manifest.json"))
    facts = json.loads(made.read_text())["facts"]
    assert (facts["where"], facts["backend"]) == ("host", "onnx-reference")
