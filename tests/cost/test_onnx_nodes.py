"""Nodes, loops, branches and functions of ONNX graphs that no net here exports, each with its number by hand."""

from __future__ import annotations

import onnx
import onnx.parser
import pytest

from robustdeploy.cost.onnx_graph import macs, product_macs
from robustdeploy.cost.onnx_nodes import einsum_macs
from robustdeploy.cost.sparse import onnx_nonzero_macs
from robustdeploy.errors import ArtifactError


def graph(path, body, opset=23, more="", functions=""):
    """Write a graph from ONNX's own text: of images N×8×8 to y."""
    text = f'<ir_version: 10, opset_import: ["" : {opset}{more}]>\nnet {body}\n{functions}'
    onnx.save(onnx.parser.parse_model(text), path)
    return path


BY_HAND = {
    "an LSTM back and forth": (
        "(float[N,8,8] x, float[2,20,8] w, float[2,20,5] r) => (float y) "
        '{ t = Transpose<perm = [1,0,2]>(x) y = LSTM<hidden_size = 5, direction = "bidirectional">(t, w, r) }',
        8 * 2 * 20 * (8 + 5),
    ),
    "a GRU": (
        "(float[N,8,8] x, float[1,15,8] w, float[1,15,5] r) => (float y) "
        "{ t = Transpose<perm = [1,0,2]>(x) y = GRU<hidden_size = 5>(t, w, r) }",
        8 * 15 * (8 + 5),
    ),
    "an RNN": (
        "(float[N,8,8] x, float[1,5,8] w, float[1,5,5] r) => (float y) "
        "{ t = Transpose<perm = [1,0,2]>(x) y = RNN<hidden_size = 5>(t, w, r) }",
        8 * 5 * (8 + 5),
    ),
    "attention, two queries to a key": (
        "(float[N,4,8,6] q, float[N,2,8,6] k, float[N,2,8,3] v) => (float y) { y = Attention(q, k, v) }",
        4 * 8 * 8 * (6 + 3),
    ),
    "attention, heads side by side": (
        "(float[N,8,24] q, float[N,8,12] k, float[N,8,6] v) => (float y) "
        "{ y = Attention<q_num_heads = 4, kv_num_heads = 2>(q, k, v) }",
        4 * 8 * 8 * (6 + 3),
    ),
    "what constants alone give": (
        "(float[N,8,8] x) => (float y) <float[8,1] a = {1,1,1,1,1,1,1,1}, float[1,8] b = {1,1,1,1,1,1,1,1}> "
        "{ c = MatMul(a, b) y = MatMul(x, c) }",
        8 * 8 * 8,
    ),
    "a loop of three rounds": (
        "(float[N,8,8] x) => (float y) <int64 three = {3}, bool yes = {1}> { y = Loop(three, yes, x) <body = rounds "
        "(int64 i, bool on, float[N,8,8] s) => (bool go, float[N,8,8] t) { go = Identity(on) t = MatMul(s, s) }> }",
        3 * 8 * 8 * 8,
    ),
    "a scan over eight rows": (
        "(float[N,8,8] x, float[8,8] w) => (float y) { y = Scan<num_scan_inputs = 1, scan_input_axes = [1], "
        "body = rows (float[N,8] s) => (float[N,8] t) { t = MatMul(s, w) }>(x) }",
        8 * 8 * 8,
    ),
    "a branch that is known": (
        "(float[N,8,8] x) => (float y) <bool yes = {1}> { y = If(yes) <then_branch = a () => (float[N,8,8] t) "
        "{ t = MatMul(x, x) }, else_branch = b () => (float[N,8,8] t) { t = Identity(x) }> }",
        8 * 8 * 8,
    ),
    "branches that cost alike": (
        "(float[N,8,8] x) => (float y) <float zero = {0}> { s = ReduceMax<keepdims = 0>(x) c = Greater(s, zero) "
        "y = If(c) <then_branch = a () => (float[N,8,8] t) { t = MatMul(x, x) }, "
        "else_branch = b () => (float[N,8,8] t) "
        "{ z = Transpose<perm = [0,2,1]>(x) t = MatMul(z, x) }> }",
        8 * 8 * 8,
    ),
}


@pytest.mark.parametrize("case", BY_HAND, ids=lambda case: case.replace(" ", "-"))
def test_a_graph_is_counted_as_by_hand(case, tmp_path):
    body, expected = BY_HAND[case]
    path = graph(tmp_path / "m.onnx", body)
    assert macs(path) == expected
    if "weights" not in case:
        assert 0 <= onnx_nonzero_macs(path) <= expected


def test_a_function_of_the_models_own_is_looked_into(tmp_path):
    own = '<domain: "own", opset_import: ["" : 23]> Square (a) => (b) { b = MatMul(a, a) }'
    path = graph(
        tmp_path / "m.onnx",
        "(float[N,8,8] x) => (float y) { z = own.Square(x) y = own.Square(z) }",
        more=', "own" : 1',
        functions=own,
    )
    assert sorted(product_macs(path).values()) == [512, 512]


REFUSED = {
    "the operator Det": "(float[N,8,8] x) => (float y) { y = Det(x) }",
    "the operator com.microsoft.FusedMatMul": "(float[N,8,8] x) => (float y) { y = com.microsoft.FusedMatMul(x, x) }",
    "depends on the image, and so its MACs": "(float[N,8,8] x) => (float y) <float zero = {0}> { s = "
    "ReduceMax<keepdims = 0>(x) c = Greater(s, zero) y = If(c) <then_branch = a () => (float[N,8,8] t) "
    "{ t = MatMul(x, x) }, else_branch = b () => (float[N,8,8] t) { t = Identity(x) }> }",
    "how often the Loop '' runs depends on the image": "(float[N,8,8] x) => (float y) <int64 three = {3}, "
    "bool yes = {1}, float zero = {0}> { y = Loop(three, yes, x) <body = rounds (int64 i, bool on, float[N,8,8] s) => "
    "(bool go, float[N,8,8] t) { t = MatMul(s, s) m = ReduceMax<keepdims = 0>(t) go = Greater(m, zero) }> }",
    "a net must treat each image alike": "(float[N,8] x) => (float y) { t = Transpose(x) z = MatMul(x, t) "
    "y = MatMul(z, x) }",
}


@pytest.mark.parametrize("said", REFUSED)
def test_a_graph_that_cannot_be_counted_is_refused(said, tmp_path):
    path = graph(tmp_path / "m.onnx", REFUSED[said], more=', "com.microsoft" : 1')
    with pytest.raises(ArtifactError) as told:
        macs(path)
    assert said in str(told.value)


def test_operators_newer_than_those_looked_through_are_refused(tmp_path):
    path = graph(tmp_path / "m.onnx", "(float[N,8,8] x) => (float y) { y = MatMul(x, x) }", opset=99)
    with pytest.raises(ArtifactError, match="opset 99"):
        macs(path)


@pytest.mark.parametrize(
    ("equation", "shapes", "expected"),
    [
        ("ij,jk->ik", [(2, 3), (3, 4)], 24),
        ("bij,bjk", [(5, 2, 3), (5, 3, 4)], 5 * 24),
        ("...ij,...jk->...ik", [(7, 5, 2, 3), (5, 3, 4)], 7 * 5 * 24),
        ("ij,kj->i", [(2, 3), (4, 3)], 2 * 3),  # what only one factor is summed over is summed first
        ("i,j->ij", [(2,), (3,)], 0),  # nothing is added up
        ("bc,bc->bc", [(2, 3), (2, 3)], 0),
        ("ij,jk,kl->il", [(2, 3), (3, 4), (4, 5)], 24 + 40),
        ("ii->i", [(3, 3)], 0),
    ],
)
def test_a_sum_of_products_is_contracted_from_left_to_right(equation, shapes, expected):
    assert einsum_macs(equation, shapes) == expected
