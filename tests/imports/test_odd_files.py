"""ONNX files as nobody here would write them: each keeps its own scores, or is refused in a sentence with the fix."""

import ml_dtypes
import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from perceptrons import own_scores, perceptron

from robustdeploy.errors import ArtifactError
from robustdeploy.imports.asked import Asked
from robustdeploy.imports.foreign_file import import_file
from robustdeploy.imports.onnx_net import import_onnx
from robustdeploy.nets.graph import answers_of, graph_of, session_of
from robustdeploy.nets.store import load_net
from robustdeploy.onboard.types import pixels_from_bytes

FLOAT, INT64 = TensorProto.FLOAT, TensorProto.INT64
TO_THE_FRONT = ("Transpose", [], {"perm": [0, 3, 1, 2]})
value = helper.make_tensor_value_info


def constants(model, **arrays):
    model.graph.initializer.extend(numpy_helper.from_array(np.asarray(each), name) for name, each in arrays.items())
    return model


def between(model, *nodes, at=-1):
    """Put ``nodes``, each an operator with its attributes and further inputs, in front of the node at ``at``."""
    follows = model.graph.node[at]
    name, made = follows.input[0], []
    for number, (operator, more, attributes) in enumerate(nodes):
        made.append(helper.make_node(operator, [name, *more], [f"odd{at}/{number}"], **attributes))
        name = made[-1].output[0]
    follows.input[0] = name
    place = at % len(model.graph.node)
    for node in reversed(made):
        model.graph.node.insert(place, node)
    return model


def features_first(layers):
    model = perceptron(layers)
    model.graph.output.insert(0, value("hidden", FLOAT, ["N", 32]))
    return model


def unread(layers):
    model = perceptron(layers, names=("images", "scores"))
    model.graph.input.insert(0, value("training", TensorProto.BOOL, []))
    model.graph.input.append(value("mask", FLOAT, ["N", 1]))
    return model


def weights_in(layers, kind, opset, block=0, cast=False):
    """The first weights in numbers of fewer bits, read through a cast or a DequantizeLinear."""
    model = perceptron(layers, opset=opset)
    model.ir_version = 10
    held = next(each for each in model.graph.initializer if each.name == "w1")
    rows = layers[0].reshape(-1, block or 64, 32)
    scale = np.abs(rows).max(axis=(1,) if block else None) / np.float32(7)
    steps = layers[0] if cast else (rows / (scale[:, None] if block else scale)).reshape(64, 32)
    held.CopyFrom(numpy_helper.from_array(np.asarray(steps).astype(kind), "few"))
    constants(model, scale=np.asarray(scale, np.float32))
    whole = {"axis": 0, "block_size": block} if block else {}
    node = helper.make_node("DequantizeLinear", ["few", "scale"], ["w1"], **whole)
    model.graph.node.insert(0, helper.make_node("Cast", ["few"], ["w1"], to=FLOAT) if cast else node)
    return model


def old_operators(layers):
    padded = ("Pad", [], {"pads": [0, 0, 1, 1, 0, 0, 1, 1]})
    cut = ("Slice", [], {"starts": [1, 1], "ends": [9, 9], "axes": [2, 3]})
    model = between(perceptron(layers, opset=9), padded, cut, at=0)
    return between(model, ("Clip", [], {"min": 0.0, "max": 1e6}))


def in_any_order(layers):
    """The nodes the wrong way round, which ONNX forbids and converters write."""
    model = perceptron(layers)
    nodes = list(model.graph.node)[::-1]
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    return model


def of_torchs_exporter(layers):
    model = perceptron(layers, dims=(1, 1, 8, 8), out=(1, 10))
    model.graph.node[0].attribute.append(helper.make_attribute("allowzero", 1))
    return model


def a_function(layers):
    model = perceptron(layers)
    body = [helper.make_node("Relu", ["a"], ["b"])]
    model.functions.append(helper.make_function("theirs", "Act", ["a"], ["b"], body, [helper.make_opsetid("", 17)]))
    model.graph.node[2].op_type, model.graph.node[2].domain = "Act", "theirs"
    model.opset_import.append(helper.make_opsetid("theirs", 1))
    return model


def of_old_ir(layers):
    model = perceptron(layers, weight_inputs=True, opset=9)
    model.ir_version = 3
    return model


TAKEN = {
    "features-before-the-scores": (features_first, 1e-5),
    "inputs-that-nothing-reads": (unread, 1e-5),
    "weights-in-bfloat16": (lambda layers: weights_in(layers, ml_dtypes.bfloat16, 17, cast=True), 0.1),
    "weights-in-4-bits": (lambda layers: weights_in(layers, ml_dtypes.int4, 21), 3.0),
    "weights-in-4-bits-in-blocks": (lambda layers: weights_in(layers, ml_dtypes.int4, 21, 32), 3.0),
    "weights-in-8-bit-floats": (lambda layers: weights_in(layers, ml_dtypes.float8_e4m3fn, 19), 1.0),
    "operators-of-opset-9": (old_operators, 1e-5),
    "nodes-in-any-order": (in_any_order, 1e-5),
    "one-at-a-time-by-torch": (of_torchs_exporter, 1e-5),
    "a-function-of-its-own": (a_function, 1e-5),
    "an-old-ir": (of_old_ir, 1e-5),
    "all-sizes-free": (lambda layers: perceptron(layers, dims=("b", "c", "h", "w")), 1e-5),
    "sizes-without-names": (lambda layers: perceptron(layers, dims=(None, 1, None, None)), 1e-5),
    "whole-numbers": (lambda layers: perceptron(layers, element=INT64, scale=255.0), 1e-5),
    "names-of-tensorflow": (lambda layers: perceptron(layers, names=("input:0", "Identity:0")), 1e-5),
    "names-of-ours": (lambda layers: perceptron(layers, names=("robustdeploy/in/0", "robustdeploy/out/0")), 1e-5),
    "scores-in-rows-of-one": (
        lambda layers: perceptron(layers, end=[("Reshape", {"const": np.array([-1, 1, 10])})], out=("N", 1, 10)),
        1e-5,
    ),
    "scores-in-double": (
        lambda layers: perceptron(layers, end=[("Cast", {"to": TensorProto.DOUBLE})], kind=TensorProto.DOUBLE),
        1e-5,
    ),
    "channels-moved-at-once": (
        lambda layers: between(
            perceptron(layers, dims=("N", 8, 8, 1)), ("Transpose", [], {"perm": [0, 3, 1, 2]}), at=0
        ),
        1e-5,
    ),
}


@pytest.mark.parametrize("kind", TAKEN)
def test_an_odd_file_keeps_its_scores_and_is_followed(kind, layers, recipe, digits, saved, tmp_path):
    make, bound = TAKEN[kind]
    path = saved(make(layers))
    info, told = import_onnx(path, Asked(values=None), recipe, digits, tmp_path)
    net, images = load_net(tmp_path), digits.validation.images[:30].numpy()
    pixels, wanted = pixels_from_bytes(images), own_scores(layers, images)
    found = session_of(graph_of(net).content).run(["scores"], {"images": pixels})[0]
    # How far it is from the layers is the rounding's; its twin is as near to it as ever.
    assert np.abs(found - wanted).max() <= bound * max(1.0, np.abs(wanted).max())
    assert not info.graph.twin_problem
    with torch.no_grad():
        np.testing.assert_allclose(answers_of(net)(torch.from_numpy(pixels)).numpy(), found, atol=1e-4)
    if kind == "inputs-that-nothing-reads":
        assert not info.graph.unchanged
        assert any("nothing in it reads training, mask, which is left out" in each for each in told)


def changed(model, **fields):
    for name, what in fields.items():
        setattr(model, name, what)
    return model


def without_output(layers):
    model = perceptron(layers)
    del model.graph.output[:]
    return model


def constant_output(layers):
    model = constants(perceptron(layers), same=np.zeros((1, 10), np.float32))
    model.graph.output[0].name = "same"
    return model


def of_nobody(layers):
    model = perceptron(layers)
    model.graph.node[-1].domain = "com.acme"
    model.opset_import.append(helper.make_opsetid("com.acme", 1))
    return model


def two_inputs(layers):
    model = perceptron(layers, end=[("Identity", {})])
    model.graph.node[-1].CopyFrom(helper.make_node("Add", ["logits", "bias"], ["y"]))
    model.graph.input.append(value("bias", FLOAT, [1, 10]))
    return model


def noisy(layers):
    model = between(perceptron(layers), ("RandomNormalLike", [], {"scale": 5.0}))
    model.graph.node[-1].input[0] = "louder"
    model.graph.node.insert(len(model.graph.node) - 1, helper.make_node("Add", ["active", "odd-1/0"], ["louder"]))
    return model


def in_words(layers):
    model = perceptron(layers, end=[("ArgMax", {"axis": 1, "keepdims": 0})], out=("N",), kind=INT64)
    model.graph.node[-1].output[0] = "place"
    constants(model, words=np.array(list("abcdefghij"), object))
    model.graph.node.append(helper.make_node("Gather", ["words", "place"], ["y"]))
    model.graph.output[0].type.tensor_type.elem_type = TensorProto.STRING
    return model


def labels_as_floats(layers):
    ends = [("ArgMax", {"axis": 1, "keepdims": 1}), ("Cast", {"to": FLOAT})]
    return perceptron(layers, end=ends, out=("N", 1))


def wide_beside_another(layers):
    model = perceptron(layers)
    del model.graph.output[:]
    model.graph.output.extend([value("hidden", FLOAT, ["N", 32]), value("active", FLOAT, ["N", 32])])
    return model


REFUSED = {
    "no-output": (without_output, "the file has no output, .* export it again"),
    "an-output-that-is-constant": (constant_output, r"gives scores of \(1, 10\) for 130 images at once"),
    "classes-before-images": (
        lambda layers: perceptron(layers, end=[("Transpose", {"perm": [1, 0]})], out=(10, "N")),
        "one row for each image; export it with a free batch in the first place",
    ),
    "mixed-over-the-batch": (
        lambda layers: perceptron(layers, end=[("Softmax", {"axis": 0})]),
        "otherwise beside others than alone; export it with a free batch, in eval mode",
    ),
    "noise-left-in": (noisy, "gives other scores when it is asked again: .* export it in eval mode"),
    "bfloat16": (
        lambda layers: perceptron(layers, element=TensorProto.BFLOAT16),
        "is of type bfloat16, .* export it with one of these, such as float",
    ),
    "levels-of-65535": (lambda layers: perceptron(layers, element=TensorProto.UINT16), "is of type uint16"),
    "an-ir-to-come": (
        lambda layers: changed(perceptron(layers), ir_version=99),
        "cannot load this file: Unsupported model IR version: 99, .*; export it again for ONNX Runtime",
    ),
    "operators-of-nobody": (of_nobody, "export it again without the operators of com.acme"),
    "two-inputs": (two_inputs, r"the file has 2 inputs \(x, bias\), .* export it with the others as constants"),
    "answers-in-words": (in_words, "holds neither scores nor whole-numbered labels; export it with its scores"),
    "labels-as-floats": (labels_as_floats, "the data has 10 classes; export it with a score for each"),
    "features-alone": (wide_beside_another, "name another output with --output: active"),
    "five-dimensions": (lambda layers: perceptron(layers, dims=("N", 1, 1, 8, 8)), "has 5 dimensions"),
    "scores-beyond-numbers": (
        lambda layers: perceptron(layers, end=[("Exp", {}), ("Exp", {})]),
        "gives scores that are not finite",
    ),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_an_odd_file_is_refused_with_the_fix_and_leaves_nothing(kind, layers, recipe, digits, tmp_path, capfd):
    make, words = REFUSED[kind]
    path, folder = tmp_path / "net.onnx", tmp_path / "net"
    path.write_bytes(make(layers).SerializeToString())
    folder.mkdir()
    with pytest.raises(ArtifactError, match=words) as caught:
        import_onnx(path, Asked(), recipe, digits, folder)
    assert not list(folder.iterdir())
    said = str(caught.value)
    assert "\n" not in said
    assert ".cc:" not in said
    assert "ONNXRuntimeError" not in said
    assert not capfd.readouterr().err  # the runtime says nothing beside


@pytest.mark.parametrize("name", ["net.onnx", "net.pt"])
def test_a_pointer_of_git_lfs_is_told_as_one(name, recipe, digits, tmp_path):
    (tmp_path / name).write_text("version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n")
    with pytest.raises(ArtifactError, match="is a pointer of Git LFS and not the net; fetch that: git lfs pull"):
        import_file(tmp_path / name, Asked(), recipe, digits, tmp_path)


def test_the_files_of_these_tests_are_what_onnx_calls_valid(layers):
    for kind, (make, _) in TAKEN.items():
        if kind != "nodes-in-any-order":
            onnx.checker.check_model(make(layers))
