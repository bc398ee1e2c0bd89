import json

import jsonschema
import pytest

from robustdeploy.core.load import load_recipe, load_target, resolved_yaml
from robustdeploy.core.recipe import Recipe
from robustdeploy.core.schema import KINDS, schema_of
from robustdeploy.core.shipped import shipped_folder, shipped_names
from robustdeploy.core.yaml_source import source_from_file, value_from_text
from robustdeploy.errors import RecipeError
from robustdeploy.report.load import load_rules


def _fits(schema, value):
    return jsonschema.Draft202012Validator(schema).is_valid(value)


@pytest.mark.parametrize("kind", KINDS)
def test_every_schema_is_one(registries, kind):
    schema = schema_of(kind, registries)
    jsonschema.Draft202012Validator.check_schema(schema)
    references = {part.split('"')[0] for part in json.dumps(schema).split('"#/$defs/')[1:]}
    assert references <= set(schema.get("$defs", {}))


@pytest.mark.parametrize(
    "text",
    [
        "name: t",
        "name: t\nnet: a.b:make",
        "name: t\nnet: {name: 'a.b:make', width: 3}",
        "name: t\nprune: {name: masks, alpha: '8/255', steps: 3}",
        "name: t\nprune: {name: masks, options: {mode: slow}}",
        "name: t\nevaluate: {attacks: [fgsm, {name: square, queries: 10}]}",
        "name: t\nthreat: {eps: '4/255'}",
        "name: t\nprune: {name: masks, alfa: 1}",
        "name: t\nprune: maskss",
        "name: t\ndata: {name: digitz}",
        "name: t\ndata: {name: digits, size: 8, options: {steps: 3, alpha: '8/255'}}",
        "name: t\ndata: {name: digits, options: {stepz: 3}}",
        "name: t\ndata: {name: digits, steps: 3}",
        "name: t\ndata: digits",
        "name: t\nprune: {name: masks, mode: other}",
        "name: t\nbudget: {ops: 2}",
        "name: t\nbudget: {ops: 1.5}",
        "name: t\nbudget: {ops: 30%, params: 64k, memory: 1.5MiB}",
        "name: t\nbudget: {ops: 12.2M, params: 1/3, memory: 65536}",
        "name: t\nbudget: {ops: 12KiB}",
        "name: t\nbudget: {params: 130%}",
        "name: t\nbudget: {params: 0%}",
        "name: t\nbudget: {memory: 12 stone}",
        "name: t\nbudget: {ops: 0}",
        "name: t\nthreat: {eps: 0.001}",
        "name: t\nbudgett: {ops: 1}",
        "name: t\ntrain: {task: {alpha: 1}}",
        "name: t\ntrain: {schedule: one-cycle, phases: [{name: a, train: weights, epochs: 2, lr: 1/2}]}",
        "name: t\ntrain: {phases: [{name: a, objective: {name: pgd-at, steps: 2}, schedule: one-cycle}, {name: b}]}",
        "name: t\ntrain: {phases: [{name: a, objective: pgd, schedule: one-cycle}]}",
        "name: t\ntrain: {phases: [{name: a, schedule: two-cycle}]}",
        "name: t\ntrain: {phases: [{name: a, train: all}]}",
        "name: t\ntrain: {phases: [{train: both}]}",
        "seed: 1",
    ],
)
def test_the_recipe_schema_and_the_loader_agree(write, registries, text):
    path = write(text)
    try:
        load_recipe(path, registries=registries)
    except RecipeError:
        loads = False
    else:
        loads = True
    assert _fits(schema_of("recipe", registries), value_from_text(text, "x").data) is loads


def test_a_resolved_recipe_fits(registries):
    text = resolved_yaml(Recipe(name="t"))
    assert _fits(schema_of("recipe", registries), value_from_text(text, "x").data)


@pytest.mark.parametrize(
    ("text", "fits"),
    [
        ("name: t\nextends: host-cpu\nbackend: {name: onnxruntime, version: '>=1', options: {steps: 3}}", True),
        ("name: t\nlink: {name: ssh, alpha: 1}", True),
        ("name: t\nbackend: {name: other}", False),
        ("name: t\nbackend: {name: onnxruntime, options: {stepz: 3}}", False),
        ("name: t\nlink: sssh", False),
        ("name: t\nlink: [{name: ssh, alpha: 1}, {name: ssh, alpha: 2}]", True),
        ("name: t\nlink: [{name: ssh, alpha: 1}, {name: ssh, alhpa: 2}]", False),
        ("name: t\nlink: []", False),
    ],
)
def test_the_target_schema_knows_backends_and_links(registries, text, fits):
    assert _fits(schema_of("target", registries), value_from_text(text, "x").data) is fits


@pytest.mark.parametrize(
    ("rule", "fits"),
    [
        ({"metric": "clean_accuracy", "at_least": 0.5}, True),
        ({"metric": "clean_accuracy", "at_least": "95 %"}, True),
        ({"metric": "latency_ms.p99", "at_most": "20 ms"}, True),
        ({"metric": "ops_fraction", "at_most": "budget"}, True),
        ({"metric": "ops", "at_most": "12.2M"}, True),
        ({"metric": "accuracy", "at_least": 0.5}, False),
        ({"metric": "clean_accuracy", "at_least": "much"}, False),
        ({"metric": "clean_accuracy", "at_least": "budget"}, False),
    ],
)
def test_the_schema_of_a_gate_and_the_loader_agree(write, registries, rule, fits):
    schema = schema_of("gate", registries)
    gate = {"rules": [{"id": "RD-A-1", **rule}]}
    assert _fits(schema, gate) is fits
    try:
        load_rules(write(json.dumps(gate)))
    except RecipeError:
        assert not fits
    else:
        assert fits


def test_a_gate_holds_rules(registries):
    schema = schema_of("gate", registries)
    assert not _fits(schema, {"rules": [{"id": "nonsense", "metric": "clean_accuracy"}]})
    assert not _fits(schema, {"rules": []})


@pytest.mark.parametrize("name", shipped_names("targets"))
def test_shipped_targets_fit_the_schema_of_the_shipped_plugins(name):
    source = source_from_file(shipped_folder("targets") / f"{name}.yaml", name)
    assert load_target(name).name == name
    assert _fits(schema_of("target"), source.data)
