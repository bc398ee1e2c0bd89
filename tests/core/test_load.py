from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from robustdeploy.core.load import load_recipe, load_target, resolved_yaml, says_the_same
from robustdeploy.core.plain import plain
from robustdeploy.core.recipe import Budget, Choice, Data, Evaluate, Recipe, Threat, Train
from robustdeploy.core.shipped import shipped_folder, shipped_names
from robustdeploy.core.target import Target
from robustdeploy.errors import RecipeError

OPTIONS = "alpha, steps, queries, restarts, loss, pair, mode, weights"


def _complaints(path, registries, overrides=()):
    with pytest.raises(RecipeError) as caught:
        load_recipe(path, overrides, registries)
    return str(caught.value).replace(str(path), "x.yaml").splitlines()


def test_the_smallest_recipe_has_every_default(write, registries):
    assert load_recipe(write("name: tiny"), registries=registries) == Recipe(name="tiny")


def test_all_that_is_wrong_is_told_at_once_each_with_its_line(write, registries):
    path = write("""\
        name: tiny
        threat: {norm: l3, epss: 0.1}
        budget:
          ops: 1.5
        train:
          epochs: 2.5
          lr: 8/0
          task: fastatt
        evaluate:
          attacks:
            - fgsm
            - name: pgd
              stepz: 3
            - squaer
        prune: {name: masks, foo: 1}
        data: {name: digitz}
        gate:
          - {id: RD-A-1, metric: acc, on: bound, at_least: 0.5, at_most: 1}
        wat: no
        wat: yes
        """)
    assert _complaints(path, registries) == [
        "x.yaml:2:10: threat.norm: must be 'linf', 'l2' or 'l1', not 'l3'",
        "x.yaml:2:20: threat.epss: unknown key (value 0.1); did you mean 'eps'?",
        "x.yaml:4:3: budget.ops: must be a fraction above 0 and at most 1, or a whole number above 1, "
        "such as 0.3, 30% or 12.2M, not 1.5",
        "x.yaml:6:3: train.epochs: must be a whole number, not 2.5",
        "x.yaml:7:7: train.lr: 8/0 divides by zero",
        "x.yaml:8:3: train.task: unknown task 'fastatt'; did you mean 'fastat'? (known: fastat, pgd-at)",
        "x.yaml:13:7: evaluate.attacks[1].stepz: unknown key (value 3); did you mean 'steps'?",
        "x.yaml:14:7: evaluate.attacks[2]: unknown attack 'squaer'; did you mean 'square'? "
        "(known: autoattack, fgsm, pgd, square, straight-through, substitute)",
        f"x.yaml:15:22: prune.foo: unknown key (value 1); known: {OPTIONS}",
        "x.yaml:16:8: data.name: unknown data 'digitz'; did you mean 'digits'? (known: digits, fashion-mnist)",
        "x.yaml:18:5: gate[0]: rule RD-A-1 needs exactly one of at_least, at_most and no_worse_than_baseline",
        f"x.yaml:19:1: wat: unknown key (value 'no'); known: {', '.join(Recipe.model_fields)}",
        "x.yaml:20:1: wat: stands here a second time (first in line 19); keep one",
    ]


@pytest.mark.parametrize(
    ("value", "sentence"),
    [
        ("nan", "must be a finite number at least 1/255 and at most 10000, not 'nan'"),
        (".nan", "must be a finite number at least 1/255 and at most 10000, not nan"),
        ("0", "must be at least 1/255 and at most 10000, not 0"),
        ("-8/255", "must be a number, not '-8/255'"),
        ("half", "must be a number, not 'half'"),
        ("true", "must be a number, not true"),
        ("[0.5]", "must be a number, not a list of 1"),
    ],
)
def test_an_override_out_of_range_is_one_sentence_about_the_override(write, registries, value, sentence):
    told = _complaints(write("name: tiny"), registries, [f"threat.eps={value}"])
    assert told == [f"--set threat.eps={value}: threat.eps: {sentence}"]


@pytest.mark.parametrize(
    ("value", "told"),
    [
        ("1.5", "eps is 1.5, but no pixel of [0, 1] can move by more than 1; did you mean 1.5/255, or norm: l2 or l1?"),
        ("3/2", "eps is 1.5, but no pixel of [0, 1] can move by more than 1; did you mean 1.5/255, or norm: l2 or l1?"),
        ("8", "eps is 8, but no pixel of [0, 1] can move by more than 1; did you mean 8/255, or norm: l2 or l1?"),
        ("300", "eps is 300, but no pixel of [0, 1] can move by more than 1; lengths in norm: l2 or l1 can"),
    ],
)
def test_a_radius_above_the_range_of_a_pixel_is_refused(write, registries, value, told):
    assert _complaints(write("name: tiny"), registries, [f"threat.eps={value}"]) == [
        f"--set threat.eps={value}: threat: {told}"
    ]


@pytest.mark.parametrize(
    ("override", "told"),
    [
        ("budget.opss=0.3", "budget.opss: unknown key (value 0.3); did you mean 'ops'?"),
        ("budget", "must look like budget.ops=0.3"),
        ("a..b=1", "must look like budget.ops=0.3"),
        ("name.x=1", "name: is 'tiny', which has no keys"),
        ("seed.x=1", "seed: is 3, which has no keys"),
        ("evaluate.attacks.9=fgsm", "evaluate.attacks: there is no item 9; it has 4, counted from 0"),
        ("train.task=[", "not valid YAML: expected the node content, but found '<stream end>'"),
        ("train.lr=8/0", "train.lr: 8/0 divides by zero"),
        ("train.task.alfa=0.1", "train.task.alfa: unknown key (value 0.1); did you mean 'alpha'?"),
        ("train.task=fast", "train.task: unknown task 'fast'; did you mean 'fastat'? (known: fastat, pgd-at)"),
    ],
)
def test_a_wrong_override_is_told_as_the_override(write, registries, override, told):
    found = _complaints(write("name: tiny\nseed: 3"), registries, [override])

    assert found == [f"--set {override}: {told}"]


def test_an_override_mends_what_cannot_be_read_in_the_file(write, registries):
    path = write("name: tiny\ntrain: {lr: 8/0}\nbudget:\n")
    assert load_recipe(path, ["train.lr=0.1", "budget.ops=1/2"], registries).budget.ops == 0.5


def test_overrides_reach_into_choices_and_lists_and_defaults(write, registries):
    path = write("name: tiny\nevaluate: {attacks: [fgsm, {name: pgd, steps: 5}]}\nbudget: {ops: 7}")
    recipe = load_recipe(
        path,
        ["budget.ops=0.3", "evaluate.attacks.1.steps=9", "evaluate.attacks.0.alpha=8/255", "train.task.steps=2"],
        registries,
    )
    assert recipe.budget.ops == 0.3
    assert recipe.evaluate.attacks == (
        Choice(name="fgsm", options={"alpha": 8 / 255}),
        Choice(name="pgd", options={"steps": 9}),
    )
    assert recipe.train.task == Choice(name="fastat", options={"steps": 2})
    replaced = load_recipe(path, ["budget={ops: 0.5}", "evaluate.attacks=[square]", "net=a.b:c"], registries)
    assert replaced.evaluate.attacks == (Choice(name="square"),)
    assert replaced.net.name == "a.b:c"


def test_true_is_no_number(write, registries):
    told = _complaints(write("name: tiny\nseed: true\ntrain: {task: {name: fastat, steps: true}}"), registries)
    assert told == [
        "x.yaml:2:1: seed: must be a number, not true",
        "x.yaml:3:30: train.task.steps: must be a number, not true",
    ]


def test_a_missing_file_and_an_unknown_name_are_told_with_the_nearest(write, registries):
    path = write("name: tiny", "recipe.yaml")
    with pytest.raises(RecipeError, match=r"no such file; did you mean 'recipe.yaml'\?"):
        load_recipe(path.with_name("recipes.yaml"), registries=registries)
    with pytest.raises(RecipeError, match=r"unknown target 'host-cpuu'; did you mean 'host-cpu'\? \(known: aarch64"):
        load_target("host-cpuu", registries)


def test_without_registries_plugins_go_unchecked(write):
    assert load_recipe(write("name: t\nnet: {name: gone, x: 1}"), registries=None).net.name == "gone"


def test_a_target_extends_another_by_name_or_file(write, registries):
    write(
        "name: base\ndescription: b\nlatency: {min_s: 1, batch: 4}\nlink: {name: ssh, alpha: 1}\nopset: 18", "base.yaml"
    )
    target = load_target(write("name: mine\nextends: base.yaml\nlatency: {min_s: 2}\nlink: local"), registries)
    assert (target.latency.min_s, target.latency.batch, target.opset) == (2, 4, 18)
    assert target.link == Choice(name="local")
    assert target.description == ""
    steps = load_target(write("name: m\nextends: base.yaml\nlink: {name: ssh, steps: 2}"), registries)
    assert steps.link.options == {"alpha": 1, "steps": 2}


def test_a_target_extends_to_any_depth(write, registries):
    write("name: t0\nopset: 18\nlatency: {min_s: 1, max_s: 9}\nchannel_multiple: 2", "t0.yaml")
    for depth in range(1, 30):
        write(f"name: t{depth}\nextends: t{depth - 1}.yaml\nlatency: {{min_samples: {100 + depth}}}", f"t{depth}.yaml")
    target = load_target(write("name: last\nextends: t29.yaml\nchannel_multiple: 4"), registries)
    assert (target.name, target.opset, target.channel_multiple) == ("last", 18, 4)
    assert (target.latency.min_s, target.latency.max_s, target.latency.min_samples) == (1, 9, 129)


def test_a_target_extends_the_shipped_one_of_its_own_name(tmp_path, monkeypatch):
    (tmp_path / "targets").mkdir()
    (tmp_path / "targets" / "host-cpu.yaml").write_text("name: host-cpu\nextends: host-cpu\nopset: 19\n")
    monkeypatch.chdir(tmp_path)
    target = load_target("targets/host-cpu.yaml")
    assert (target.opset, target.backend.version) == (19, ">=1.23,<2")


def test_the_nearest_of_two_wins_and_another_plug_in_drops_all_options_of_those_below(write, registries):
    write("name: a\nlink: {name: ssh, alpha: 1, steps: 3}", "a.yaml")
    write("name: b\nextends: a.yaml\nlink: {name: ssh, steps: 5}", "b.yaml")
    write("name: c\nextends: b.yaml\nlink: local", "c.yaml")
    assert load_target(write("name: d\nextends: b.yaml"), registries).link.options == {"alpha": 1, "steps": 5}
    assert load_target(write("name: d\nextends: c.yaml\nlink: {name: ssh}"), registries).link.options == {}


def test_a_mistake_in_the_extended_target_is_told_in_that_file(write, registries):
    base = write("name: base\nopset: 99", "base.yaml")
    with pytest.raises(RecipeError) as caught:
        load_target(write("name: mine\nextends: base.yaml\narch: arm"), registries)
    first, second = sorted(str(caught.value).splitlines(), key=len)
    assert first == f"{base}:2:1: opset: must be at least 18 and at most 23, not 99"
    assert "x.yaml:3:1: arch: must be 'any', 'x86_64', 'aarch64', 'amd64' or 'arm64', not 'arm'" in second


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("name: m\nextends: x.yaml", r"x.yaml:2:1: extends: .*x.yaml extends itself, by way of .*x.yaml"),
        ("name: m\nextends: round.yaml", r"trip.yaml:2:1: extends: .*round.yaml extends itself, by way of .*trip.yaml"),
        ("name: m\nextends: lost.yaml", r"lost.yaml:2:1: extends: unknown target 'nowhere'"),
        ("name: m\nextends: nowhere.yaml", r"x.yaml:2:1: extends: .*nowhere.yaml: no such file"),
        ("name: m\nextends: nowhere", r"x.yaml:2:1: extends: unknown target 'nowhere'"),
        ("name: m\nextends: [a]", r"x.yaml:2:1: extends: must be a target's name"),
        ("extends: base.yaml", r"name: is required and missing"),
    ],
)
def test_extends_must_lead_somewhere_and_not_back(write, registries, text, sentence):
    write("name: base", "base.yaml")
    write("name: round\nextends: trip.yaml", "round.yaml")
    write("name: trip\nextends: round.yaml", "trip.yaml")
    write("name: lost\nextends: nowhere", "lost.yaml")
    with pytest.raises(RecipeError, match=sentence):
        load_target(write(text), registries)


def test_backend_options_are_checked_too(write, registries):
    path = write("name: m\nbackend: {name: onnxruntim, version: '>=1'}\nlink: {name: ssh, hst: 1}")
    with pytest.raises(RecipeError) as caught:
        load_target(path, registries)
    assert str(caught.value).replace(str(path), "x").splitlines() == [
        "x:2:11: backend.name: unknown backend 'onnxruntim'; did you mean 'onnxruntime'? (known: null, onnxruntime)",
        f"x:3:19: link.hst: unknown key (value 1); known: {OPTIONS}",
    ]
    path = write("name: m\nbackend: {name: onnxruntime, options: {alpa: 1}}")
    with pytest.raises(RecipeError, match=r"backend\.options\.alpa: unknown key"):
        load_target(path, registries)


@pytest.mark.parametrize("name", shipped_names("targets"))
def test_shipped_targets_are_named_as_their_files(name):
    assert load_target(name, registries=None).name == name


def test_shipped_folders_are_where_the_wheel_puts_them():
    assert shipped_folder("targets") == Path(__file__).parents[2] / "targets"
    assert {"host-cpu", "jetson-orin", "aarch64-board", "null"} <= set(shipped_names("targets"))


_words = st.text(st.characters(codec="utf-8"), max_size=20)
_numbers = st.floats(0.01, 1, allow_nan=False) | st.sampled_from([8 / 255, 1e-5, 1.0])
_options = st.dictionaries(
    st.sampled_from(["a", "on", "name", "options", "8/255"]) | _words,
    st.none() | st.booleans() | st.integers() | _numbers | _words | st.lists(_numbers, max_size=3),
    max_size=3,
)
_choices = st.builds(Choice, name=st.sampled_from(["x", "on", "null", "1e-3", "8/255", "a.b:c", "é"]), options=_options)
_recipes = st.builds(
    Recipe,
    name=st.from_regex(r"\A[A-Za-z0-9][A-Za-z0-9._-]*\Z"),
    description=_words,
    seed=st.integers(0, 2**40),
    data=st.builds(Data, name=_words, path=st.none() | st.just(Path("a/b c")), validation=st.floats(0.01, 0.49)),
    net=_choices,
    threat=st.builds(Threat, eps=st.floats(1 / 255, 1)),
    train=st.builds(Train, task=_choices, lr=_numbers, weight_decay=st.floats(0, 1)),
    prune=_choices,
    budget=st.builds(Budget, ops=st.none() | _numbers, memory=st.none() | st.integers(1, 2**40)),
    evaluate=st.builds(Evaluate, attacks=st.lists(_choices, max_size=3).map(tuple)),
)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(_recipes)
def test_a_resolved_recipe_loads_as_the_same_recipe(tmp_path, recipe):
    path = tmp_path / "resolved.yaml"
    path.write_text(resolved_yaml(recipe), newline="")
    assert load_recipe(path, registries=None) == recipe


def test_a_resolved_target_loads_as_the_same_target(tmp_path):
    target = Target(name="m", link=Choice(name="ssh", options={"host": "on"}), opset=18)
    (tmp_path / "t.yaml").write_text(resolved_yaml(target))
    assert load_target(tmp_path / "t.yaml", registries=None) == target


def test_a_recipe_written_before_a_field_was_added_still_says_the_same(tmp_path):
    path, recipe = tmp_path / "base.yaml", Recipe(name="t")
    text = resolved_yaml(recipe)
    path.write_text("".join(line for line in text.splitlines(keepends=True) if "vulnerability" not in line))
    assert path.read_text() != text
    assert says_the_same(path, recipe)
    assert not says_the_same(path, Recipe(name="t", seed=1))
    path.write_text(text + "nonsense: 1\n")
    assert not says_the_same(path, recipe)
    path.write_text(text[:40] + "{")
    assert not says_the_same(path, recipe)


def test_a_backend_that_builds_on_its_board_alone_is_told_when_the_target_is_read(tmp_path):
    (tmp_path / "t.yaml").write_text("extends: jetson-orin\nname: t\nbuild_on: host\n")
    with pytest.raises(RecipeError, match=r"t\.yaml:3:1: build_on: must be 'board': tensorrt builds its engines where"):
        load_target(tmp_path / "t.yaml")
    (tmp_path / "t.yaml").write_text("extends: host-cpu\nname: t\nbuild_on: host\n")
    assert load_target(tmp_path / "t.yaml").build_on == "host"


def test_a_target_has_one_link_or_several_and_each_is_checked_in_its_place(write, registries):
    several = load_target(write("name: m\nlink: [{name: ssh, alpha: 1}, {name: ssh, alpha: 2}, local]"), registries)
    assert [link.name for link in several.links] == ["ssh", "ssh", "local"]
    assert plain(several)["link"] == [{"name": "ssh", "alpha": 1}, {"name": "ssh", "alpha": 2}, "local"]
    assert load_target(write(resolved_yaml(several)), registries) == several
    one = load_target(write("name: m\nlink: local"), registries)
    assert (one.links, plain(one)["link"]) == ((Choice(name="local"),), "local")
    write("name: base\nlink: [{name: ssh, alpha: 1}, local]", "base.yaml")
    assert len(load_target(write("name: m\nextends: base.yaml"), registries).links) == 2
    assert load_target(write("name: m\nextends: base.yaml\nlink: {name: ssh, alpha: 4}"), registries).links[0].options


@pytest.mark.parametrize(
    ("link", "told"),
    [
        ("[{name: ssh, alpha: 1}, {name: ssh, hst: 1}]", "link[1].hst: unknown key (value 1); known: "),
        ("[{name: ssh, alpha: 1}, sssh]", "link[1]: unknown link 'sssh'; did you mean 'ssh'?"),
        ("[{name: ssh, alpha: 1}, 3]", "link[1]: must be a mapping of keys to values, not 3"),
        ("3", "link: must be a mapping of keys to values, not 3"),
        ("{options: {}}", "link.name: is required and missing"),
        ("[]", "link is an empty list; name the way to one board at least"),
        ("[{name: ssh, alpha: 1}, {name: ssh, alpha: 1}]", "link holds the same 'ssh' link twice; name each board"),
    ],
)
def test_what_is_wrong_with_links_is_told_with_its_place(write, registries, link, told):
    with pytest.raises(RecipeError) as refused:
        load_target(write(f"name: m\nlink: {link}"), registries)
    assert told in str(refused.value)
