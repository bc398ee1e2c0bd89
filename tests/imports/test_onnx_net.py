"""ONNX files of others: what is deployed scores as the file does, and its twin in torch as well."""

import io

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from perceptrons import own_scores, perceptron

from robustdeploy.errors import ArtifactError, UsageError
from robustdeploy.imports.asked import Asked
from robustdeploy.imports.onnx_net import import_onnx
from robustdeploy.nets.graph import answers_of, graph_of, session_of
from robustdeploy.nets.store import load_net
from robustdeploy.onboard.onnx_ends import image_shape
from robustdeploy.onboard.types import pixels_from_bytes

FLOAT, HALF, BYTE, DOUBLE = TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.UINT8, TensorProto.DOUBLE
SOFTMAX = ("Softmax", {"axis": 1})
PRUNED = ("Reshape", {"const": np.array([0, 10, 1, 1])})
TIMES = ("Mul", {"const": np.float32(2)})


def softmax(scores):
    e = np.exp(scores - scores.max(1, keepdims=True))
    return e / e.sum(1, keepdims=True)


def taken(path, recipe, digits, folder, **said):
    """Import a file; return what is deployed, the net in torch, what is known of it, and what was told."""
    info, told = import_onnx(path, Asked(**said), recipe, digits, folder)
    net = load_net(folder)
    return graph_of(net).content, net, info.graph, " | ".join(told)


def scores_of(content, images):
    return session_of(content).run(["scores"], {"images": pixels_from_bytes(images)})[0]


KINDS = {
    "plain": ({}, {}, "layout nchw"),
    "its-own-names": ({"names": ("images", "scores")}, {}, "deployed as it is"),
    "names-the-wrong-way-round": ({"names": ("scores", "images")}, {}, "within"),
    "channels-last": ({"dims": ("N", 8, 8, 1)}, {}, "layout nhwc"),
    "without-channels": ({"dims": ("N", 8, 8)}, {}, "layout nhw"),
    "flat": ({"dims": ("N", 64)}, {}, "layout flat"),
    "free-sizes": ({"dims": ("N", 1, "H", "W")}, {}, "layout nchw"),
    "bytes": ({"element": BYTE, "scale": 255.0}, {}, "range 0..255: its input is of type uint8"),
    "signed-bytes-shifted": ({"element": TensorProto.INT8, "scale": 1.0}, None, ""),
    "doubles": ({"element": DOUBLE}, {}, "layout nchw"),
    "levels-of-255": ({"scale": 255.0}, {"values": (0.0, 255.0)}, "within"),
    "levels-of-255-in-metadata": (
        {"scale": 255.0, "metadata": {"Image.NominalPixelRange": "NominalRange_0_255"}},
        {},
        "range 0..255: its metadata say",
    ),
    "levels-of-16": ({"scale": 16.0}, {"values": (0.0, 16.0)}, "within"),
    "one-at-a-time": ({"dims": (1, 1, 8, 8), "out": (1, 10)}, {}, "batch of 1 is made free"),
    "four-at-a-time": ({"dims": (4, 1, 8, 8), "out": (4, 10)}, {}, "batch of 4 is made free"),
    "softmax": ({"end": [SOFTMAX]}, {}, "probabilities; gradients are followed on what goes into its softmax"),
    "softmax-of-opset-11": ({"end": [("Softmax", {})], "opset": 11}, {}, "probabilities"),
    "softmax-behind-it-a-shape": ({"end": [SOFTMAX, PRUNED], "out": ("N", 10, 1, 1)}, {}, "probabilities"),
    "maps-of-1x1": ({"end": [PRUNED], "out": ("N", 10, 1, 1)}, {}, "within"),
    "weights-among-the-inputs": ({"weight_inputs": True}, {}, "layout nchw"),
    "opset-23": ({"opset": 23}, {}, "layout nchw"),
    "halves": ({"element": HALF}, {}, "computes in fp16"),
    "labels-alone": (
        {"end": [("ArgMax", {"axis": 1, "keepdims": 0})], "out": ("N",), "kind": TensorProto.INT64},
        {},
        "labels alone",
    ),
}


@pytest.mark.parametrize("kind", [kind for kind, (_, said, _) in KINDS.items() if said is not None])
def test_each_kind_of_file_is_deployed_with_its_own_scores_and_followed(kind, layers, saved, recipe, digits, tmp_path):
    form, said, words = KINDS[kind]
    content, net, given, told = taken(saved(perceptron(layers, **form)), recipe, digits, tmp_path, **said)
    assert words in told
    images = digits.validation.images[:50].numpy()
    logits = own_scores(layers, images)
    wanted = softmax(logits) if "softmax" in kind else logits
    if kind == "labels-alone":
        wanted = np.eye(10)[logits.argmax(1)]
    found = scores_of(content, images)
    bound = 0.05 if kind == "halves" else 1e-5 * max(1, np.abs(wanted).max())
    assert found.shape == (50, 10)
    assert found.dtype == np.float32
    assert np.abs(found - wanted).max() <= bound
    path = tmp_path / "deployed.onnx"
    path.write_bytes(content)
    assert image_shape(path) == (1, 8, 8)
    followed = torch.from_numpy(pixels_from_bytes(images)).requires_grad_()
    with torch.no_grad():
        np.testing.assert_allclose(answers_of(net)(followed).numpy(), found, atol=bound)
    assert given.unchanged == (kind == "its-own-names")
    if kind == "labels-alone":
        assert given.twin_problem == "it answers labels alone, which have no gradient"
        return
    assert not given.twin_problem
    scores = net(followed)
    # In front of a softmax, whose own gradient dies out.
    np.testing.assert_allclose(scores.detach().numpy(), logits, atol=max(bound, 1e-4))
    scores.amax(1).sum().backward()
    assert (followed.grad.flatten(1).abs().amax(1) > 0).all()


def test_a_file_that_needs_no_adapter_is_deployed_byte_for_byte(layers, saved, recipe, digits, tmp_path):
    path = saved(perceptron(layers, names=("images", "scores")))
    content, _, given, _ = taken(path, recipe, digits, tmp_path)
    assert content == path.read_bytes()
    assert given.unchanged


def test_the_graph_of_others_stays_as_it_is_between_the_nodes_of_the_adapter(layers, saved, recipe, digits, tmp_path):
    model = perceptron(layers, dims=("N", 8, 8, 1), element=BYTE, scale=255.0)
    content, *_ = taken(saved(model), recipe, digits, tmp_path)
    deployed = onnx.load_model_from_string(content)
    whole = [node.SerializeToString(deterministic=True) for node in deployed.graph.node]
    theirs = [node.SerializeToString(deterministic=True) for node in model.graph.node]
    at = whole.index(theirs[0])
    assert whole[at : at + len(theirs)] == theirs
    held = {tensor.name: tensor for tensor in deployed.graph.initializer}
    assert all(held[tensor.name] == tensor for tensor in model.graph.initializer)


def test_a_normalisation_that_is_told_stands_in_front(layers, saved, recipe, digits, tmp_path):
    first, bias, *rest = layers
    mean, std = 0.3, 0.4
    # The same function for pixels that were normalised: w·x + b = w·std·z + (b + w·mean).
    shifted = [first * std, bias + mean * first.sum(0), *rest]
    content, *_ = taken(saved(perceptron(shifted)), recipe, digits, tmp_path, mean=(mean,), std=(std,))
    images = digits.validation.images[:20].numpy()
    np.testing.assert_allclose(scores_of(content, images), own_scores(layers, images), atol=1e-4)


def test_labels_in_another_order_are_put_into_the_datas(layers, saved, recipe, digits, tmp_path):
    images = digits.validation.images[:20].numpy()
    wanted = own_scores(layers, images)
    order = [3, 1, 4, 0, 5, 9, 2, 6, 8, 7]
    wide = [*layers[:2], layers[2][:, order], layers[3][order]]
    more = [np.concatenate([each, each[..., :1]], -1) if place > 1 else each for place, each in enumerate(wide)]
    labels = tuple(map(str, order))
    content, *_ = taken(saved(perceptron(wide)), recipe, digits, tmp_path, labels=labels)
    np.testing.assert_allclose(scores_of(content, images), wanted, atol=1e-4)
    path = saved(perceptron(more, out=("N", 11)))
    content, *_ = taken(path, recipe, digits, tmp_path, labels=(*labels, "-"))
    np.testing.assert_allclose(scores_of(content, images), wanted, atol=1e-4)
    with pytest.raises(ArtifactError, match="gives 11 scores, and the data has 10 classes"):
        taken(path, recipe, digits, tmp_path)
    for wrong, words in (
        ((*labels, "0"), "outputs 3 and 10 are both said to be '0'"),
        ((*labels, "horse"), "output 10 is said to be 'horse', which is no class"),
        (("-", *labels[1:], "-"), "no output is said to be '3'"),
        (labels, "names 10 outputs, and the file gives 11"),
    ):
        with pytest.raises(UsageError, match=words):
            taken(path, recipe, digits, tmp_path, labels=wrong)


def test_of_several_outputs_the_first_that_can_be_scores_is_taken_or_the_named_one(
    layers, saved, recipe, digits, tmp_path
):
    model = perceptron(layers, end=[TIMES])
    model.graph.node.append(helper.make_node("ArgMax", ["y"], ["label"], axis=1, keepdims=0))
    label = helper.make_tensor_value_info("label", TensorProto.INT64, ["N"])
    logits = helper.make_tensor_value_info("logits", FLOAT, ["N", 10])
    both = [label, *model.graph.output, logits]
    del model.graph.output[:]
    model.graph.output.extend(both)
    images = digits.validation.images[:20].numpy()
    wanted = own_scores(layers, images)
    content, _, _, told = taken(saved(model), recipe, digits, tmp_path)
    assert "output y: the first of label, y, logits" in told
    np.testing.assert_allclose(scores_of(content, images), 2 * wanted, atol=1e-4)
    content, *_ = taken(saved(model), recipe, digits, tmp_path, output="logits")
    np.testing.assert_allclose(scores_of(content, images), wanted, atol=1e-4)
    with pytest.raises(UsageError, match="no such output; did you mean 'logits'"):
        taken(saved(model), recipe, digits, tmp_path, output="logit")


def test_an_operator_without_a_torch_form_leaves_answers_and_no_gradient(layers, saved, recipe, digits, tmp_path):
    model = perceptron(layers, end=[("Hardmax", {"axis": 1})])
    content, net, given, told = taken(saved(model), recipe, digits, tmp_path)
    assert given.twin_problem == "there is no torch form of the ONNX operator Hardmax"
    assert "only query attacks are run" in told
    images = digits.validation.images[:20].numpy()
    with torch.no_grad():
        found = net(torch.from_numpy(pixels_from_bytes(images))).numpy()
    np.testing.assert_array_equal(found, scores_of(content, images))


def test_a_quantised_file_is_followed_through_its_rounding(layers, saved, recipe, digits, tmp_path):
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, quantize_dynamic, quantize_static

    class Reader(CalibrationDataReader):
        def __init__(self):
            images = digits.train.images[:64].numpy()
            self.left = [{"x": pixels_from_bytes(images[at : at + 8])} for at in range(0, 64, 8)]

        def get_next(self):
            return self.left.pop() if self.left else None

    source = saved(perceptron(layers))
    images = digits.validation.images[:100].numpy()
    for form in (QuantFormat.QDQ, QuantFormat.QOperator, None):
        path = tmp_path / "quantised.onnx"
        if form is None:
            quantize_dynamic(source, path)
        else:
            quantize_static(source, path, Reader(), quant_format=form)
        content, net, given, told = taken(path, recipe, digits, tmp_path)
        assert not given.twin_problem
        assert "it computes in int8" in told
        own = session_of(path.read_bytes()).run(None, {"x": pixels_from_bytes(images)})[0]
        # A range that is measured on the batch is another for one image; both are the file's own.
        if form is not None:
            np.testing.assert_allclose(scores_of(content, images), own, atol=1e-5)
        pixels = torch.from_numpy(pixels_from_bytes(images)).requires_grad_()
        net(pixels).amax(1).sum().backward()
        assert (pixels.grad.flatten(1).abs().amax(1) > 0).float().mean() > 0.9


def test_a_classifier_of_scikit_learn_is_taken_with_the_classes_that_it_names(mlp, digits, recipe, tmp_path):
    from skl2onnx import to_onnx

    pixels = digits.train.images.flatten(1).numpy().astype(np.float32) / 255
    images = digits.validation.images[:50].numpy()
    wanted = mlp.predict_proba(images.reshape(50, -1).astype(np.float32) / np.float32(255))
    for zipmap in (False, True):
        path = tmp_path / "sklearn.onnx"
        path.write_bytes(to_onnx(mlp, pixels[:1], options={"zipmap": zipmap}).SerializeToString())
        content, _, given, told = taken(path, recipe, digits, tmp_path)
        assert given.scores == "probabilities"
        assert "probabil" in told.partition("guessed output")[2]
        assert not given.twin_problem
        np.testing.assert_allclose(scores_of(content, images), wanted, atol=1e-5)


def loop(layers):
    """The perceptron, its second layer inside a loop that runs once."""
    model = perceptron(layers)
    body = helper.make_graph(
        [
            helper.make_node("Identity", ["go"], ["on"]),
            helper.make_node("Gemm", ["active", "w2", "b2"], ["inner"]),
        ],
        "body",
        [
            helper.make_tensor_value_info("i", TensorProto.INT64, []),
            helper.make_tensor_value_info("go", TensorProto.BOOL, []),
            helper.make_tensor_value_info("held", FLOAT, None),
        ],
        [
            helper.make_tensor_value_info("on", TensorProto.BOOL, []),
            helper.make_tensor_value_info("inner", FLOAT, None),
        ],
    )
    model.graph.node.pop()
    model.graph.initializer.extend(
        [numpy_helper.from_array(np.array(1), "once"), numpy_helper.from_array(np.zeros((1, 10), np.float32), "zero")]
    )
    model.graph.node.append(helper.make_node("Loop", ["once", "", "zero"], ["y"], body=body))
    return model


def test_a_graph_with_a_loop_keeps_its_scores_and_has_no_twin(layers, saved, recipe, digits, tmp_path):
    for names in (("x", "y"), ("images", "y")):
        model = loop(layers)
        if names[0] == "images":  # a name of ours for something else, also inside of the loop
            for node in model.graph.node:
                node.input[:] = ["images" if each == "active" else each for each in node.input]
                node.output[:] = ["images" if each == "active" else each for each in node.output]
            model.graph.node[-1].attribute[0].g.node[1].input[0] = "images"
        content, _, given, _ = taken(saved(model), recipe, digits, tmp_path)
        assert "operator Loop" in given.twin_problem
        images = digits.validation.images[:10].numpy()
        np.testing.assert_allclose(scores_of(content, images), own_scores(layers, images), atol=1e-4)


WRONG_FORMS = {
    "two-channels": ({"dims": ("N", 2, 8, 8)}, {}, "no order of channels, rows and columns"),
    "colour": ({"dims": ("N", 3, 8, 8)}, {}, "it reads colour images and these are grey"),
    "larger": ({"dims": ("N", 1, 28, 28)}, {}, "--set data.size=28"),
    "larger-last": ({"dims": ("N", 32, 32, 1)}, {}, "--set data.size=32"),
    "told-otherwise": ({}, {"layout": "nhwc"}, "cannot be that for images of 1×8×8; it can be nchw"),
    "one-score": ({"end": [("ReduceMax", {"axes": [1]})], "out": ("N", 1)}, {}, "one number for an image"),
    "batch-inside": (
        {"dims": (1, 1, 8, 8), "end": [("Reshape", {"const": np.array([10])})], "out": (10,)},
        {},
        "export it with a free batch",
    ),
}


@pytest.mark.parametrize("kind", WRONG_FORMS)
def test_a_file_that_does_not_fit_is_refused_with_what_would(kind, layers, saved, recipe, digits, tmp_path):
    form, said, words = WRONG_FORMS[kind]
    model = perceptron(layers, **form)
    with pytest.raises(UsageError, match=words.replace("(", "\\(").replace(".", "\\.")):
        taken(saved(model), recipe, digits, tmp_path, **said)


def test_what_is_no_onnx_file_is_told_so(layers, saved, recipe, digits, tmp_path):
    path = saved(perceptron(layers))
    whole = path.read_bytes()
    outside = perceptron(layers)
    onnx.external_data_helper.convert_model_to_external_data(outside, location="weights.bin", size_threshold=0)
    onnx.save(outside, tmp_path / "outside.onnx")
    buffer = io.BytesIO()
    onnx.save(perceptron(layers), buffer)
    cases = {
        "empty.onnx": (b"", "is empty"),
        "short.onnx": (whole[: len(whole) // 2], "cannot read|no graph|cannot load"),
        "text.onnx": (b"weights of my net\n" * 20, "cannot read|no ONNX model"),
        "outside.onnx": ((tmp_path / "outside.onnx").read_bytes(), "takes the values of .* Make it one file"),
    }
    for name, (content, words) in cases.items():
        wrong = tmp_path / name
        wrong.write_bytes(content)
        with pytest.raises(ArtifactError, match=words):
            taken(wrong, recipe, digits, tmp_path)
    with (tmp_path / "huge.onnx").open("wb") as file:
        file.truncate(2**31)
    with pytest.raises(ArtifactError, match="more than the"):
        taken(tmp_path / "huge.onnx", recipe, digits, tmp_path)
    (tmp_path / "link.onnx").symlink_to(path)
    assert taken(tmp_path / "link.onnx", recipe, digits, tmp_path)[2].sha256
