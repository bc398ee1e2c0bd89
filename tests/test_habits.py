"""The habits of the house, each held by a check: linters, types, floors, sizes, safe loading, links, plug-ins."""

import ast
import re
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

from robustdeploy.core.registry import REGISTRIES
from robustdeploy.errors import RecipeError

ROOT = Path(__file__).parents[1]
MODULES = sorted((ROOT / "robustdeploy").rglob("*.py"))
NOT_OURS = {".git", ".venv", "uv.lock", "runs", "build", "dist", "scratch", "node_modules"}
LINES_OF_A_MODULE = 450
LINES_OF_A_FUNCTION = 60
# What only makes sense with options: a board has a name that nobody can guess.
NEEDS = {("links", "ssh"): {"host": "board"}}
NEEDS |= {("attacks", name): {"source": "other"} for name in ("transfer", "replay")}


def relative(path):
    return path.relative_to(ROOT).as_posix()


def run(*words):
    done = subprocess.run([sys.executable, "-m", *words], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


@cache
def own_files():
    """Every file of the project: what git tracks or would track; without git, all but the known outputs."""
    listed = ["git", "ls-files", "--cached", "--others", "--exclude-standard"]
    try:
        names = subprocess.run(listed, cwd=ROOT, capture_output=True, text=True, check=True).stdout.split("\n")
        paths = [ROOT / name for name in names if name]
    except (OSError, subprocess.CalledProcessError):
        paths = [p for p in ROOT.rglob("*") if not NOT_OURS & set(p.relative_to(ROOT).parts)]
        paths = [p for p in paths if not any(part.endswith(("_cache", "__pycache__")) for part in p.parts)]
    return tuple(path for path in paths if path.is_file())


@cache
def tree(path):
    return ast.parse(path.read_text(encoding="utf-8"))


def code_without_docstrings(path):
    """The module's code as Python writes it, without comments and docstrings; ``x.eval()`` of torch stays a method."""
    fresh = ast.parse(path.read_text(encoding="utf-8"))
    for node in ast.walk(fresh):
        body = getattr(node, "body", None)
        if isinstance(body, list) and body and isinstance(body[0], ast.Expr):
            value = body[0].value
            if isinstance(value, ast.Constant) and isinstance(value.value, str):
                body[0] = ast.Pass()
    return ast.unparse(fresh)


def test_ruff_finds_nothing():
    run("ruff", "check", ".")


@pytest.mark.slow
def test_mypy_finds_nothing():
    run("mypy")


@pytest.mark.slow
def test_no_module_imports_from_a_floor_above_its_own():
    done = subprocess.run(
        [sys.executable, "-c", "from importlinter.cli import lint_imports_command as c; c()"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert " 0 broken" in done.stdout


@pytest.mark.parametrize("path", MODULES, ids=relative)
def test_a_module_says_what_it_is_and_keeps_its_size(path):
    first = (ast.get_docstring(tree(path)) or "").partition("\n")[0]
    assert len(first) > 10, "no docstring"
    assert len(path.read_text().splitlines()) <= LINES_OF_A_MODULE
    functions = [n for n in ast.walk(tree(path)) if isinstance(n, ast.FunctionDef | ast.AsyncFunctionDef)]
    long = [f.name for f in functions if (f.end_lineno or 0) - f.lineno + 1 > LINES_OF_A_FUNCTION]
    assert long == []


def test_every_folder_of_the_package_is_a_package():
    folders = {path.parent for path in MODULES}
    assert [relative(folder) for folder in sorted(folders) if not (folder / "__init__.py").is_file()] == []
    assert (ROOT / "robustdeploy" / "py.typed").is_file()


def test_no_module_is_named_for_being_useful():
    dull = {"utils", "util", "helpers", "helper", "common", "misc", "manager"}
    assert [relative(path) for path in MODULES if path.stem in dull] == []


def test_a_test_stands_where_its_module_stands():
    strangers = []
    for path in sorted((ROOT / "tests").rglob("test_*.py")):
        folder = path.parent.relative_to(ROOT / "tests")
        if not (ROOT / "robustdeploy" / folder).is_dir():
            strangers.append(relative(path))
    assert strangers == []
    assert list((ROOT / "tests").rglob("__init__.py")) == []


def _own_imports_inside_functions(path):
    for function in ast.walk(tree(path)):
        if isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            for node in ast.walk(function):
                if isinstance(node, ast.ImportFrom) and (node.level or (node.module or "").startswith("robustdeploy")):
                    yield f"{'.' * node.level}{node.module or ''}"
                if isinstance(node, ast.Import):
                    yield from (each.name for each in node.names if each.name.startswith("robustdeploy"))


OF_NETS = "a net's options are checked before torch loads, and its layers need torch"
IMPORTED_IN_FUNCTIONS = {
    ("robustdeploy/cli/__init__.py", "robustdeploy.cli.program"): "Ctrl-C while packages load is no traceback",
    (
        "robustdeploy/onboard/__main__.py",
        ".session",
    ): "a board without numpy says so, and nothing prints to the pipe",
    ("robustdeploy/nets/cifar_resnet.py", "robustdeploy.nets.residual"): OF_NETS,
    ("robustdeploy/nets/lenet.py", "robustdeploy.nets.plain_conv"): OF_NETS,
    ("robustdeploy/nets/lenet_300_100.py", "robustdeploy.nets.plain_linear"): OF_NETS,
    ("robustdeploy/nets/preact_resnet18.py", "robustdeploy.nets.preact_resnet"): OF_NETS,
    ("robustdeploy/nets/resnet18.py", "robustdeploy.nets.residual"): OF_NETS,
    ("robustdeploy/nets/vgg16_bn.py", "robustdeploy.nets.plain_conv"): OF_NETS,
    ("robustdeploy/nets/wang_cnn.py", "robustdeploy.nets.binarised"): OF_NETS,
    ("robustdeploy/nets/wang_cnn.py", "robustdeploy.nets.plain_conv"): OF_NETS,
    ("robustdeploy/nets/wide_resnet.py", "robustdeploy.nets.preact_resnet"): OF_NETS,
}
"""Module, what it imports in a function, and why; commands are imported by cli/group.py, what is heavy by heavy.py."""


def test_own_modules_are_imported_at_the_top():
    found = {(relative(path), module) for path in MODULES for module in _own_imports_inside_functions(path)}
    assert found == set(IMPORTED_IN_FUNCTIONS)


@pytest.mark.parametrize(
    "line", ["from robustdeploy.core import load", "from .load import x", "import robustdeploy.core.load"]
)
def test_the_search_for_imports_in_functions_finds_them(line, tmp_path):
    (tmp_path / "late.py").write_text(f"def f():\n    {line}\n")
    assert list(_own_imports_inside_functions(tmp_path / "late.py"))


IMPORT_BY_NAME = {
    "robustdeploy/__init__.py": "the public functions, most of which bring torch",
    "robustdeploy/cli/forking.py": "what a run needs, before the first one",
    "robustdeploy/cli/group.py": "commands",
    "robustdeploy/cli/heavy.py": "what brings torch",
    "robustdeploy/core/registry.py": "plug-ins",
    "robustdeploy/core/torchvision_package.py": "torchvision, which may not fit torch",
    "robustdeploy/nets/build.py": "a user's own factory",
    "robustdeploy/onboard/find.py": "plug-ins on the board",
    "robustdeploy/onboard/backends/ncnn.py": "the toolchain",
    "robustdeploy/onboard/backends/onnxruntime.py": "the toolchain",
    "robustdeploy/onboard/backends/openvino.py": "the toolchain",
    "robustdeploy/onboard/backends/tensorrt.py": "the toolchain",
    "robustdeploy/onboard/tvm/installed.py": "the toolchain",
}


def test_modules_are_imported_by_name_in_few_places():
    late = {relative(path) for path in MODULES if "import_module(" in code_without_docstrings(path)}
    assert late == set(IMPORT_BY_NAME)


UNSAFE = {
    "pickle": r"\b(c?pickle|dill|shelve|marshal|joblib)\b(?! *=)",
    "numpy pickles": r"allow_pickle *= *True",
    "torch pickles": r"\btorch *\. *(load|save)\b|weights_only *= *False",
    "yaml objects": r"\byaml *\. *(load|load_all|full_load|unsafe_load|UnsafeLoader|FullLoader)\b",
    "a shell": r"shell *= *True|\bos *\. *(system|popen)\b",
    "evaluation": r"(?<![\w.])(eval|exec)\(",
    "unknown hosts": r"StrictHostKeyChecking=(no|accept-new|off)",
}


WEIGHTS_ALONE = "robustdeploy/imports/checkpoint.py"
"""Reads weights of others by torch's unpickler for weights alone, and names torch's functions in what it advises."""


def test_weights_of_others_are_read_as_weights_alone():
    calls = [node for node in ast.walk(tree(ROOT / WEIGHTS_ALONE)) if isinstance(node, ast.Call)]
    named = [call for call in calls if ast.unparse(call.func) in ("torch.load", "torch.save", "torch.export.load")]
    assert [ast.unparse(call.func) for call in named] == ["torch.load"]
    assert {each.arg: ast.unparse(each.value) for each in named[0].keywords}["weights_only"] == "True"


@pytest.mark.parametrize("what", UNSAFE)
def test_nothing_in_the_package_loads_or_runs_what_it_should_not(what):
    pattern = re.compile(UNSAFE[what])
    calls = {}
    for path in MODULES:
        code = code_without_docstrings(path)
        if relative(path) == "robustdeploy/core/factories.py":  # names packages in order to refuse them
            code = code.partition("_NEVER = ")[0] + code.partition("_NEVER = ")[2].partition("})")[2]
        if relative(path) == WEIGHTS_ALONE and what == "torch pickles":
            code = ""  # looked at below, call by call
        if found := pattern.search(code):
            calls[relative(path)] = found.group(0)
    assert calls == {}


@pytest.mark.parametrize(
    ("what", "line"),
    [
        ("pickle", "import pickle"),
        ("numpy pickles", "np.load(path, allow_pickle=True)"),
        ("torch pickles", "torch.load(path)"),
        ("yaml objects", "yaml.load(text)"),
        ("a shell", "subprocess.run(text, shell=True)"),
        ("evaluation", "eval(text)"),
        ("unknown hosts", "options = ['StrictHostKeyChecking=no']"),
    ],
)
def test_the_search_for_unsafe_calls_finds_them(what, line, tmp_path):
    (tmp_path / "bad.py").write_text(f'"""Doc."""\n{line}\n')
    assert re.search(UNSAFE[what], code_without_docstrings(tmp_path / "bad.py"))
    (tmp_path / "good.py").write_text('"""No pickle, no shell=True."""\nnet.eval()\nyaml.safe_load(text)\n')
    assert not re.search(UNSAFE[what], code_without_docstrings(tmp_path / "good.py"))


# Written in pieces, so that this file does not hold what it looks for.
_MACHINE = [r"/" + r"(work|opt|mnt|srv)/\w", "/" + r"root/\w", "/" + r"home/\w", r"/tmp/" + "probe"]
_HOSTS = ["pypi" + r"\.org", "files" + r"\.pythonhosted", "artifact" + "ory", r"local" + r"host:\d", "nex" + r"us\b"]
_UNDONE = [r"\bTO" + "DO", r"\bFIX" + "ME", r"\bXX" + "X"]
FORBIDDEN = re.compile("|".join([*_MACHINE, *_HOSTS, *_UNDONE]))


def test_no_file_names_a_machine_a_registry_or_unfinished_work():
    found = {}
    for path in own_files():
        try:
            text = path.read_text(encoding="utf-8")
        except UnicodeDecodeError:
            continue
        if path.name != "uv.lock" and (hit := FORBIDDEN.search(text)):
            found[relative(path)] = hit.group(0)
    assert found == {}


def test_nothing_that_is_made_is_tracked():
    made = (".pyc", ".whl", ".onnx", ".safetensors", ".npz", ".pkl", ".pt", ".pth", "uv.lock")
    kept = [path for path in own_files() if not relative(path).startswith("docs/results/")]  # the nets behind results
    assert [relative(path) for path in kept if path.name.endswith(made)] == []
    assert [relative(path) for path in own_files() if path.stat().st_size > 2 * 2**20] == []


def anchors(text):
    headings = re.findall(r"^#+ (.+)$", re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.strip().lower()).replace(" ", "-") for heading in headings}


def local_links(page):
    text = re.sub(r"^```.*?^```", "", page.read_text(), flags=re.MULTILINE | re.DOTALL)
    found = re.findall(r"\]\(([^)\s]+)\)", text) + re.findall(r'(?:src|href)="([^"]+)"', text)
    return [link for link in found if not re.match(r"[a-z]+:", link)]


def test_every_local_link_of_every_page_leads_somewhere():
    pages = [path for path in own_files() if path.suffix == ".md"]
    assert {"README.md", "CONTRIBUTING.md", "CHANGELOG.md"} <= {relative(page) for page in pages}
    dead, followed = [], 0
    for page in pages:
        for link in local_links(page):
            followed += 1
            name, _, anchor = link.partition("#")
            target = page.parent / name if name else page
            if not target.exists() or (anchor and anchor not in anchors(target.read_text())):
                dead.append(f"{relative(page)}: {link}")
    assert dead == []
    assert followed > 0


PLUGINS = [(kind, name) for kind, registry in REGISTRIES.items() for name in registry.names()]


@pytest.mark.parametrize(("kind", "name"), PLUGINS)
def test_every_plug_in_has_a_summary_and_builds_with_its_defaults(kind, name):
    registry = REGISTRIES[kind]
    summary = registry.summary(name)
    assert len(summary) > 10
    assert summary.endswith((".", ")"))
    built = registry.build(name, NEEDS.get((kind, name), {}))
    assert type(built).__doc__
    assert not type(built).__doc__.startswith(f"{type(built).__name__}("), "the dataclass has no docstring of its own"


@pytest.mark.parametrize(("kind", "name"), sorted(NEEDS))
def test_a_plug_in_that_needs_options_says_which(kind, name):
    with pytest.raises(RecipeError, match=next(iter(NEEDS[kind, name]))):
        REGISTRIES[kind].build(name, {})


@pytest.mark.parametrize("kind", sorted(REGISTRIES))
def test_there_is_something_of_every_kind(kind):
    assert REGISTRIES[kind].names()
