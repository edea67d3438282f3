"""Every translation against ONNX Runtime, on graphs of one or a few nodes, at two batch sizes."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper
from onnx_cases import compare, model_of

from pockengine.frontends.onnx import import_onnx
from pockengine.ir.graph import Const, Param, State

RNG = np.random.default_rng(7)
X4 = ("float32", ["N", 3, 8, 7])


def f32(*shape: int) -> np.ndarray[Any, Any]:
    return RNG.standard_normal(shape).astype(np.float32)


def i64(*numbers: int) -> np.ndarray[Any, Any]:
    return np.array(numbers, np.int64)


def one(
    op: str,
    *rest: np.ndarray[Any, Any] | None,
    x: tuple[str, Sequence[int | str]] = X4,
    opset: int = 17,
    **attributes: Any,
) -> onnx.ModelProto:
    """One node on the input x and constants."""
    names = [f"w{i}" if w is not None else "" for i, w in enumerate(rest)]
    weights = {n: w for n, w in zip(names, rest, strict=True) if w is not None}
    node = helper.make_node(op, ["x", *names], ["y"], name=f"the_{op}", **attributes)
    return model_of([node], {"x": x}, weights=weights, opset=opset)


UNARY = """
    Abs Neg Sign Exp Sin Cos Tan Sinh Cosh Tanh Sigmoid Erf Floor Ceil Round Relu HardSwish Softplus
    LeakyRelu Elu Selu Celu ThresholdedRelu HardSigmoid Softsign Shrink Reciprocal IsNaN IsInf
    Identity Softmax LogSoftmax Flatten Transpose GlobalAveragePool GlobalMaxPool LpNormalization
    MeanVarianceNormalization
"""


@pytest.mark.parametrize("op", UNARY.split())
def test_unary(op: str) -> None:
    compare(one(op))


CASES: dict[str, onnx.ModelProto] = {
    "leaky_relu": one("LeakyRelu", alpha=0.2),
    "hard_sigmoid_sixth": one("HardSigmoid", alpha=1 / 6, beta=0.5),
    "gelu": one("Gelu", opset=20),
    "gelu_tanh": one("Gelu", opset=20, approximate="tanh"),
    "mish": one("Mish", opset=18),
    "celu": one("Celu", alpha=0.5),
    "prelu": one("PRelu", f32(3, 1, 1)),
    "clip": one("Clip", np.float32(-0.5), np.float32(0.25)),
    "clip_low": one("Clip", np.float32(-0.5)),
    "clip_high": one("Clip", None, np.float32(0.1)),
    "add": one("Add", f32(7)),
    "sub": one("Sub", f32(1, 3, 1, 1)),
    "mul": one("Mul", f32(8, 1)),
    "div": one("Div", f32(3, 1, 7) + 4),
    "pow_2": one("Pow", np.float32(2)),
    "pow_cube": one("Pow", np.float32(3)),
    "pow_integer_exponent": one("Pow", np.int64(2)),
    "less": one("Less", f32(7)),
    "greater_or_equal": one("GreaterOrEqual", f32(7)),
    "max": one("Max", f32(7), f32(8, 1)),
    "min": one("Min", f32(7)),
    "sum": one("Sum", f32(7), f32(3, 1, 1)),
    "mean": one("Mean", f32(7), f32(3, 1, 1)),
    "mod_integer": one("Mod", i64(3), x=("int64", ["N", 4])),
    "div_integer": one("Div", i64(-2), x=("int64", ["N", 4])),
    "cast": one("Cast", to=onnx.TensorProto.INT64),
    "cast_bool": one("Cast", to=onnx.TensorProto.BOOL),
    "conv": one("Conv", f32(4, 3, 3, 3), f32(4), pads=[1, 0, 2, 1], strides=[2, 1]),
    "conv_no_bias": one("Conv", f32(4, 3, 2, 3), dilations=[1, 2]),
    "conv_groups": one("Conv", f32(6, 1, 3, 3), group=3, auto_pad="SAME_UPPER", strides=[2, 2]),
    "conv_same_lower": one("Conv", f32(2, 3, 2, 2), auto_pad="SAME_LOWER"),
    "conv_valid": one("Conv", f32(2, 3, 3, 3), auto_pad="VALID"),
    "conv_1d": one("Conv", f32(4, 3, 5), f32(4), x=("float32", ["N", 3, 16]), pads=[2, 2]),
    "conv_transpose": one(
        "ConvTranspose", f32(3, 2, 3, 3), f32(2), strides=[2, 2], pads=[1, 1, 1, 1]
    ),
    "conv_transpose_output_padding": one(
        "ConvTranspose", f32(3, 2, 3, 3), strides=[2, 2], output_padding=[1, 1]
    ),
    "conv_transpose_groups": one("ConvTranspose", f32(3, 2, 2, 2), group=3, dilations=[2, 1]),
    "conv_transpose_shape": one(
        "ConvTranspose", f32(3, 2, 3, 3), strides=[2, 2], output_shape=[16, 14]
    ),
    "max_pool": one("MaxPool", kernel_shape=[3, 2], strides=[2, 2], pads=[1, 0, 1, 1]),
    "max_pool_ceil": one("MaxPool", kernel_shape=[3, 3], strides=[2, 2], ceil_mode=1),
    "max_pool_dilated": one("MaxPool", kernel_shape=[2, 2], dilations=[2, 3]),
    "max_pool_same": one("MaxPool", kernel_shape=[3, 3], strides=[2, 2], auto_pad="SAME_UPPER"),
    "max_pool_1d": one("MaxPool", kernel_shape=[3], strides=[3], x=("float32", ["N", 2, 11])),
    "average_pool": one("AveragePool", kernel_shape=[3, 3], pads=[1, 1, 1, 1]),
    "average_pool_counted": one(
        "AveragePool", kernel_shape=[3, 3], pads=[1, 1, 1, 1], strides=[2, 2], count_include_pad=1
    ),
    "average_pool_ceil": one("AveragePool", kernel_shape=[3, 3], strides=[2, 2], ceil_mode=1),
    "average_pool_ceil_counted": one(
        "AveragePool",
        kernel_shape=[3, 3],
        strides=[2, 2],
        pads=[1, 1, 1, 1],
        ceil_mode=1,
        count_include_pad=1,
    ),
    "batch_norm": one("BatchNormalization", f32(3), f32(3), f32(3), np.abs(f32(3)) + 0.5),
    "layer_norm": one("LayerNormalization", f32(7), f32(7)),
    "layer_norm_two_axes": one("LayerNormalization", f32(8, 7), axis=-2, epsilon=1e-3),
    "instance_norm": one("InstanceNormalization", f32(3), f32(3)),
    "lp_norm_1": one("LpNormalization", p=1, axis=1),
    "lrn": one("LRN", size=3, alpha=0.3, beta=0.6, bias=1.5),
    "softmax_axis": one("Softmax", axis=1),
    "reduce_mean_attribute": one("ReduceMean", axes=[2, 3], keepdims=0),
    "reduce_mean_input": one("ReduceMean", i64(-1), opset=18),
    "reduce_sum": one("ReduceSum", i64(1, 2), keepdims=0),
    "reduce_max": one("ReduceMax", axes=[1]),
    "reduce_min": one("ReduceMin", axes=[-1], keepdims=0),
    "reduce_prod": one("ReduceProd", axes=[1]),
    "reduce_l1": one("ReduceL1", axes=[1]),
    "reduce_l2": one("ReduceL2", axes=[1, 3]),
    "reduce_log_sum_exp": one("ReduceLogSumExp", axes=[1], keepdims=0),
    "reduce_sum_square": one("ReduceSumSquare", axes=[2]),
    "arg_max": one("ArgMax", axis=1, keepdims=0),
    "arg_min": one("ArgMin", axis=-1),
    "cum_sum": one("CumSum", np.int64(1)),
    "cum_sum_reverse": one("CumSum", np.int64(2), reverse=1, exclusive=1),
    "reshape": one("Reshape", i64(0, -1, 7)),
    "reshape_batch": one("Reshape", i64(-1, 56)),
    "flatten": one("Flatten", axis=2),
    "transpose": one("Transpose", perm=[0, 2, 3, 1]),
    "squeeze": one("Squeeze", i64(1), x=("float32", ["N", 1, 4, 1])),
    "unsqueeze": one("Unsqueeze", i64(1, -1)),
    "slice": one("Slice", i64(1, -3), i64(2**63 - 1, -1), i64(1, 2)),
    "slice_step": one("Slice", i64(0), i64(7), i64(2), i64(2)),
    "slice_backwards": one("Slice", i64(-1), i64(-(2**63)), i64(3), i64(-1)),
    "slice_backwards_step": one("Slice", i64(6), i64(0), i64(2), i64(-2)),
    "pad": one("Pad", i64(0, 0, 1, 2, 0, 0, 3, 0), np.float32(1.5)),
    "pad_negative": one("Pad", i64(0, 0, -1, 0, 0, 0, 2, -1)),
    "pad_reflect": one("Pad", i64(0, 0, 1, 2, 0, 0, 3, 0), mode="reflect"),
    "pad_edge": one("Pad", i64(0, 0, 1, 0, 0, 0, 0, 2), mode="edge"),
    "expand": one("Expand", i64(1, 3, 1, 4), x=("float32", ["N", 1, 2, 1])),
    "tile": one("Tile", i64(1, 2, 1, 3)),
    "gather_scalar": one("Gather", np.int64(-1), axis=1),
    "gather_indices": one("Gather", i64(0, 2, 2, -3), axis=2),
    "gather_matrix": one("Gather", np.array([[0, 1], [2, 0]]), axis=1),
    "depth_to_space": one("DepthToSpace", blocksize=2, x=("float32", ["N", 8, 2, 3])),
    "depth_to_space_crd": one(
        "DepthToSpace", blocksize=2, mode="CRD", x=("float32", ["N", 8, 2, 3])
    ),
    "space_to_depth": one("SpaceToDepth", blocksize=2, x=("float32", ["N", 2, 4, 6])),
    "trilu": one("Trilu"),
    "trilu_lower": one("Trilu", np.int64(-1), upper=0),
    "matmul": one("MatMul", f32(7, 5)),
    "matmul_batched": one("MatMul", f32(3, 7, 2)),
    "matmul_vector": one("MatMul", f32(7)),
    "gemm": one("Gemm", f32(5, 4), f32(5), x=("float32", ["N", 4]), transB=1, alpha=0.5, beta=2.0),
    "gemm_plain": one("Gemm", f32(4, 5), x=("float32", ["N", 4])),
    "one_hot": one("OneHot", np.int64(4), np.float32([-1, 2]), x=("int64", ["N", 3]), axis=1),
    "resize_nearest": one(
        "Resize",
        None,
        np.float32([1, 1, 2, 2]),
        mode="nearest",
        coordinate_transformation_mode="asymmetric",
        nearest_mode="floor",
    ),
    "resize_nearest_default": one("Resize", None, np.float32([1, 1, 2, 3]), mode="nearest"),
    "resize_nearest_smaller": one(
        "Resize", None, None, i64(5, 3), mode="nearest", axes=[2, 3], opset=18
    ),
    "resize_cubic": one("Resize", None, np.float32([1, 1, 2, 1.5]), mode="cubic"),
    "resize_cubic_outside": one(
        "Resize",
        None,
        np.float32([1, 1, 0.6, 1.3]),
        mode="cubic",
        cubic_coeff_a=-0.5,
        exclude_outside=1,
        coordinate_transformation_mode="align_corners",
    ),
    "resize_linear": one("Resize", None, np.float32([1, 1, 2, 1.5]), mode="linear"),
    "resize_linear_pytorch": one(
        "Resize",
        None,
        np.float32([1, 1, 2, 2]),
        mode="linear",
        coordinate_transformation_mode="pytorch_half_pixel",
    ),
    "resize_linear_aligned": one(
        "Resize",
        None,
        np.float32([1, 1, 2, 2]),
        mode="linear",
        coordinate_transformation_mode="align_corners",
    ),
    "rms_norm": one("RMSNormalization", f32(7), opset=23),
    "group_norm": one(
        "GroupNormalization", f32(6), f32(6), num_groups=2, opset=21, x=("float32", ["N", 6, 4])
    ),
    "group_norm_18": one(
        "GroupNormalization", f32(2), f32(2), num_groups=2, opset=18, x=("float32", ["N", 6, 4])
    ),
}


@pytest.mark.parametrize("case", sorted(CASES))
def test_operator(case: str) -> None:
    compare(CASES[case])


def nodes(text: str, **attributes: Any) -> list[onnx.NodeProto]:
    """Nodes from lines such as `y, z = Split x sizes`; `attributes` are {output: {name: value}}."""
    made = []
    for line in filter(None, map(str.strip, text.splitlines())):
        outputs, _, call = line.partition(" = ")
        op, *inputs = call.split()
        names = outputs.split(", ")
        inputs = ["" if i == "-" else i for i in inputs]
        made.append(helper.make_node(op, inputs, names, name=line, **attributes.get(names[0], {})))
    return made


def test_split_and_concat() -> None:
    text = """
        a, b = Split x sizes
        c, d, e = Split x
        y = Concat b a e
    """
    sides = {"a": {"axis": 1}, "c": {"axis": 1}, "y": {"axis": 1}}
    model = model_of(
        nodes(text, **sides), {"x": ("float32", ["N", 3, 4])}, weights={"sizes": i64(1, 2)}
    )
    compare(model)


def test_shape_computations_vanish() -> None:
    """x.view(x.shape[0], -1, x.shape[2] // 2), as PyTorch's exporter writes it."""
    text = """
        s = Shape x
        n = Gather s zero
        w = Gather s two_
        half = Div w two_
        n1 = Unsqueeze n axes
        half1 = Unsqueeze half axes
        shape = Concat n1 minus half1
        y = Reshape x shape
    """
    weights = {"zero": np.int64(0), "two_": np.int64(2), "axes": i64(0), "minus": i64(-1)}
    model = model_of(
        nodes(text, shape={"axis": 0}), {"x": ("float32", ["N", 3, 8])}, weights=weights
    )
    graph = compare(model)
    assert len(graph.values()) == 2


def test_expand_by_a_computed_shape() -> None:
    """A class token, repeated for each sample: Where and Equal on shapes, then Expand."""
    text = """
        s = Shape x
        n = Slice s zero one
        wanted = Concat n ones
        minus = ConstantOfShape three
        asked = Equal wanted minus
        shape = Where asked wanted wanted
        t = Expand token shape
        y = Concat t x
    """
    weights = {
        "zero": i64(0),
        "one": i64(1),
        "three": i64(3),
        "token": f32(1, 1, 5),
        "ones": i64(1, 5),
    }
    minus = helper.make_tensor("minus", onnx.TensorProto.INT64, [1], [-1])
    model = model_of(
        nodes(text, wanted={"axis": 0}, y={"axis": 1}, minus={"value": minus}),
        {"x": ("float32", ["N", 4, 5])},
        weights=weights,
    )
    graph = compare(model)
    assert list(graph.params) == ["token"]


def test_range_over_the_batch_selects_one_row_of_each_sample() -> None:
    text = """
        s = Shape x
        n = Gather s zero
        samples = Range zero n one
        where = Unsqueeze samples axes
        column = Unsqueeze k axes
        index = Concat where column
        y = GatherND x index
    """
    weights = {"zero": np.int64(0), "one": np.int64(1), "axes": i64(-1)}
    model = model_of(
        nodes(text, index={"axis": -1}),
        {"x": ("float32", ["N", 4, 5]), "k": ("int64", ["N"])},
        weights=weights,
    )
    compare(model)


@pytest.mark.parametrize(
    ("equation", "shape"),
    [
        ("bij,jk->bik", (5, 4)),
        ("bij,kj->bki", (3, 5)),
        ("bij,kjl->bikl", (2, 5, 3)),
        ("bij,ij->b", (4, 5)),
        ("bij,k->bkij", (3,)),
    ],
)
def test_einsum(equation: str, shape: tuple[int, ...]) -> None:
    x = ("float32", ["N", 4, 5])
    compare(one("Einsum", f32(*shape), x=x, equation=equation))


def test_einsum_of_two_activations() -> None:
    text = "y = Einsum x z"
    shapes = {"x": ("float32", ["N", 2, 4, 5]), "z": ("float32", ["N", 2, 3, 5])}
    compare(model_of(nodes(text, y={"equation": "bhid,bhjd->bhij"}), shapes))


def test_gather_from_an_embedding_with_negative_indices() -> None:
    model = model_of(
        nodes("m = Neg ids\n y = Gather table m"),
        {"ids": ("int64", ["N", 6])},
        weights={"table": f32(4, 3)},
    )
    assert list(compare(model).params) == ["table"]


def test_gather_elements() -> None:
    shapes = {"x": ("float32", ["N", 4]), "k": ("int64", ["N", 2])}
    compare(model_of(nodes("y = GatherElements x k", y={"axis": 1}), shapes))


def test_scatter_at_constant_places() -> None:
    """Python's x[1] = 0 on a table, and the same table gathered from."""
    text = """
        t = ScatterND table places rows
        y = Gather t ids
    """
    weights = {"table": f32(4, 3), "places": np.array([[1], [-1]]), "rows": f32(2, 3)}
    compare(model_of(nodes(text), {"ids": ("int64", ["N", 6])}, weights=weights))


def test_bounds_cast_like_the_activation_stay_numbers() -> None:
    """PyTorch's way to write ReLU6; as Max and Min it would have another gradient at 0."""
    text = """
        low = CastLike zero x
        high = CastLike six x
        y = Clip x low high
    """
    weights = {"zero": np.int64(0), "six": np.int64(6)}
    graph = compare(model_of(nodes(text), {"x": ("float32", ["N", 4])}, weights=weights))
    assert str(graph.outputs["y"].op) == "Clip(low=0.0, high=6.0)"


def test_where_and_logic() -> None:
    text = """
        a = Greater x z
        b = Less x half
        both = And a b
        either = Or a b
        one_ = Xor both either
        y = Where one_ x z
    """
    shapes = {"x": ("float32", ["N", 4]), "z": ("float32", ["N", 4])}
    compare(model_of(nodes(text), shapes, weights={"half": np.float32(0.5)}))


@pytest.mark.parametrize("causal", [0, 1])
def test_attention_with_packed_heads_and_a_mask(causal: int) -> None:
    shapes = {name: ("float32", ["N", 5, 8]) for name in "qk"}
    shapes |= {"v": ("float32", ["N", 5, 12])}
    heads = {"q_num_heads": 2, "kv_num_heads": 2, "is_causal": causal}
    inputs = "q k v" if causal else "q k v mask"
    model = model_of(
        nodes(f"y = Attention {inputs}", y=heads),
        shapes,
        weights={} if causal else {"mask": f32(5, 5)},
        opset=23,
    )
    compare(model)


def test_attention_shares_key_heads() -> None:
    shapes = {"q": ("float32", ["N", 4, 5, 8])}
    shapes |= {name: ("float32", ["N", 2, 6, 8]) for name in "kv"}
    compare(model_of(nodes("y = Attention q k v", y={"scale": 0.3}), shapes, opset=23))


def test_branch_on_a_shape() -> None:
    """PyTorch exports squeeze() as If(shape[1] == 1)."""
    info = helper.make_tensor_value_info
    then = helper.make_graph(
        [helper.make_node("Squeeze", ["x", "axes"], ["t"])],
        "t",
        [],
        [info("t", 1, ["N", 4])],
    )
    other = helper.make_graph(
        [helper.make_node("Identity", ["x"], ["o"])], "o", [], [info("o", 1, ["N", 1, 4])]
    )
    text = """
        s = Shape x
        d = Gather s one
        single = Equal d one
    """
    branch = helper.make_node("If", ["single"], ["y"], then_branch=then, else_branch=other)
    model = model_of(
        [*nodes(text), branch],
        {"x": ("float32", ["N", 1, 4])},
        weights={"one": np.int64(1), "axes": i64(1)},
    )
    compare(model)


def test_leaves_keep_their_names_and_kinds() -> None:
    graph = compare(CASES["batch_norm"])
    assert list(graph.leaves(Param)) == ["w0", "w1"]
    assert list(graph.leaves(State)) == ["w2", "w3"]
    assert not graph.leaves(Const)


def test_a_mask_and_a_number_are_no_weights() -> None:
    mask = np.where(np.tri(4), 0, -np.inf).astype(np.float32)
    text = "s = Mul x scale_ \n y = Add s mask"
    weights = {"scale_": np.float32(0.5), "mask": mask}
    graph = compare(model_of(nodes(text), {"x": ("float32", ["N", 4, 4])}, weights=weights))
    assert not graph.params
    assert set(graph.leaves(Const)) == {"scale_", "mask"}


def test_quantised_weights_are_frozen_floats() -> None:
    weights = {
        "stored": RNG.integers(-128, 127, (3, 4)).astype(np.int8),
        "steps": np.float32([0.1, 0.2, 0.3, 0.4]),
        "zero": np.int8([1, 0, -3, 2]),
    }
    text = "w = DequantizeLinear stored steps zero \n y = MatMul x w"
    model = model_of(nodes(text, w={"axis": 1}), {"x": ("float32", ["N", 3])}, weights=weights)
    assert list(compare(model).leaves(Const)) == ["w"]


def test_a_weight_in_a_constant_node_is_trained() -> None:
    value = onnx.numpy_helper.from_array(f32(4, 2))
    text = "w = Constant \n y = MatMul x w"
    model = model_of(nodes(text, w={"value": value}), {"x": ("float32", ["N", 4])})
    assert list(compare(model).params) == ["w"]


def test_dropout_drops_only_in_training_mode() -> None:
    weights = {"ratio": np.float32(0.5), "on": np.bool_(True)}
    x = {"x": ("float32", ["N", 4])}
    assert len(compare(model_of(nodes("y = Dropout x ratio"), x, weights=weights)).values()) == 1
    graph = import_onnx(model_of(nodes("y = Dropout x ratio on"), x, weights=weights))
    assert [v.op.name for v in graph.leaves(State).values()] == ["rng"]
