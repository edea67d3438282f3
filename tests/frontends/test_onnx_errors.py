"""What is wrong with a file or unsupported in a model is said in words."""

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper
from onnx_cases import model_of
from test_onnx_operators import CASES, f32, i64, nodes

from pockengine.errors import ImportModelError, InputError, PockError, UnsupportedError
from pockengine.frontends.onnx import check_onnx, import_onnx
from pockengine.frontends.onnx_export import write_back
from pockengine.ir.types import BATCH

X = {"x": ("float32", ["N", 4])}


def linear() -> onnx.ModelProto:
    """x @ w + b."""
    return model_of(nodes("h = MatMul x w\n y = Add h b"), X, weights={"w": f32(4, 2), "b": f32(2)})


def test_missing_file(tmp_path: Path) -> None:
    with pytest.raises(ImportModelError, match=r"cannot read .*none.onnx: No such file"):
        import_onnx(tmp_path / "none.onnx")


@pytest.mark.parametrize("data", [b"", b"PK\x03\x04 a zip", b"\x80\x02}q\x00." * 9, b"hello"])
def test_not_onnx(data: bytes) -> None:
    with pytest.raises(ImportModelError, match="not an ONNX model"):
        import_onnx(data)


def test_every_truncation_is_told(tmp_path: Path) -> None:
    data = linear().SerializeToString()
    for size in range(0, len(data), 7):
        with pytest.raises(PockError):
            import_onnx(data[:size])


def test_flipped_bytes_are_told_or_harmless() -> None:
    """ONNX has no checksum, so weights may change unseen; all else must be an error in words."""
    data = bytearray(CASES["conv"].SerializeToString())
    rng = np.random.default_rng(3)
    for position in rng.integers(0, len(data), 300):
        altered = bytearray(data)
        altered[position] ^= 1 << rng.integers(0, 8)
        try:
            import_onnx(bytes(altered))
        except PockError as error:
            assert str(error)


def test_all_unsupported_operators_are_listed_at_once() -> None:
    text = """
        a = LSTMish x
        b = Relu a
        c = LSTMish b
        e = Unique x
        y = Add c e
    """
    model = model_of(nodes(text), X)
    model.graph.node[0].domain = model.graph.node[2].domain = "com.example"
    model.opset_import.append(helper.make_opsetid("com.example", 1))
    found = check_onnx(model)
    assert [(f.op, f.node) for f in found] == [
        ("com.example::LSTMish", "a = LSTMish x"),
        ("com.example::LSTMish", "c = LSTMish b"),
        ("Unique", "e = Unique x"),
    ]
    with pytest.raises(UnsupportedError, match=r"2 x com.example::LSTMish: no such operator"):
        import_onnx(model)


def test_unsupported_modes_are_listed_with_the_reason() -> None:
    text = """
        a = Resize x - scales
        y, k = MaxPool a
        z = Cast k
    """
    model = model_of(
        nodes(text, a={"mode": "linear", "antialias": 1}, y={"kernel_shape": [2, 2]}, z={"to": 1}),
        {"x": ("float32", ["N", 3, 4, 4])},
        ("y", "z"),
        opset=18,
        weights={"scales": np.float32([1, 1, 2, 2])},
    )
    (found,) = check_onnx(model)
    assert found.op == "Resize"
    assert found.reason == "Resize with antialiasing, or that keeps the aspect ratio"
    model.graph.node[0].attribute[0].i = 0
    (found,) = check_onnx(model)
    assert (found.op, found.reason) == ("MaxPool", "its output 1 is used")


def test_what_c_has_no_kernel_for_is_listed() -> None:
    model = model_of(
        nodes("a = MaxPool x\n b = Relu a\n y = Conv b w bias", a={"kernel_shape": [2, 2, 2]}),
        {"x": ("float32", ["N", 3, 8, 8, 8])},
        weights={"w": f32(4, 3, 3, 3, 3), "bias": f32(4)},
    )
    assert import_onnx(model).outputs
    found = check_onnx(model)
    assert [(f.op, f.node) for f in found] == [
        ("MaxPool", "a = MaxPool x"),
        ("Conv", "y = Conv b w bias"),
    ]
    assert {f.reason for f in found} == {"the C back end takes 1 or 2 spatial dims, not 3"}


def test_a_supported_model_has_nothing_to_list() -> None:
    assert check_onnx(linear()) == []


def test_free_dimensions_must_be_given() -> None:
    model = model_of(nodes("y = Relu x"), {"x": ("float32", ["N", "length", 4])})
    with pytest.raises(ImportModelError, match=r"'length' free; .* dims=\{'length': 128\}"):
        import_onnx(model)
    assert import_onnx(model, {"length": 6}).inputs[0].shape == (BATCH, 6, 4)
    assert import_onnx(model, {"length": 6, "N": 2}).inputs[0].shape == (2, 6, 4)


def test_old_opset() -> None:
    model = linear()
    model.opset_import[0].version = 9
    with pytest.raises(ImportModelError, match="uses ONNX opset 9; expected 13 to"):
        import_onnx(model)


def test_shapes_in_the_file_are_not_trusted() -> None:
    model = linear()
    model.graph.input[0].type.tensor_type.shape.dim[1].dim_value = 5
    with pytest.raises(
        ImportModelError, match=r"node 'h = MatMul x w' \(MatMul\): .*MatMul expects"
    ):
        import_onnx(model)


def test_a_shape_beyond_all_memory() -> None:
    text = "c = ConstantOfShape shape\n y = Mul x c"
    model = model_of(nodes(text), X, weights={"shape": i64(2**40, 2**10)})
    with pytest.raises(ImportModelError, match=r"node 'c = ConstantOfShape shape'"):
        import_onnx(model)


def test_batch_as_a_number() -> None:
    text = """
        s = Shape x
        n = Gather s zero
        f = Cast n
        y = Div x f
    """
    model = model_of(nodes(text, f={"to": 1}), X, weights={"zero": np.int64(0)})
    with pytest.raises(UnsupportedError, match="the batch size is used as a number"):
        import_onnx(model)


def test_dimension_that_is_no_multiple_of_the_batch() -> None:
    text = """
        s = Shape x
        n = Slice s zero one
        m = Add n one
        y = Expand row m
    """
    weights = {"zero": i64(0), "one": i64(1), "row": f32(1)}
    model = model_of(nodes(text), X, weights=weights)
    with pytest.raises(UnsupportedError, match="depends on the batch size but is no multiple"):
        import_onnx(model)


# ---- a fixed batch -------------------------------------------------------------------------------


def test_a_fixed_batch_is_freed_where_samples_are_apart() -> None:
    model = model_of(
        nodes("h = Relu x\n f = Flatten h\n y = MatMul f w"),
        {"x": ("float32", [1, 2, 3])},
        weights={"w": f32(6, 2)},
    )
    assert import_onnx(model).outputs["y"].shape == (BATCH, 2)


@pytest.mark.parametrize("text", ["y = Reshape x shape", "y = ReduceSum x axes", "y = CumSum x ax"])
def test_a_fixed_batch_stays_where_they_are_not(text: str) -> None:
    weights = {"shape": i64(1, -1), "axes": i64(0), "ax": np.int64(0)}
    used = {name: array for name, array in weights.items() if name in text.split()}
    graph = import_onnx(model_of(nodes(text), {"x": ("float32", [1, 2, 3])}, weights=used))
    assert graph.inputs[0].shape == (1, 2, 3)


# ---- external data -------------------------------------------------------------------------------


def external(folder: Path, location: str = "weights.bin") -> Path:
    """The linear model with w and b kept in a file of their own."""
    path = folder / "model.onnx"
    onnx.save_model(
        linear(),
        str(path),
        save_as_external_data=True,
        location="weights.bin",
        size_threshold=0,
    )
    model = onnx.load(str(path), load_external_data=False)
    for tensor in model.graph.initializer:
        for entry in tensor.external_data:
            entry.value = location if entry.key == "location" else entry.value
    path.write_bytes(model.SerializeToString())
    return path


def test_external_data(tmp_path: Path) -> None:
    assert set(import_onnx(external(tmp_path)).params) == {"w", "b"}


def test_external_data_missing(tmp_path: Path) -> None:
    path = external(tmp_path)
    (tmp_path / "weights.bin").unlink()
    with pytest.raises(ImportModelError, match=r"'weights.bin', which is not beside the model"):
        import_onnx(path)


def test_external_data_truncated(tmp_path: Path) -> None:
    path = external(tmp_path)
    (tmp_path / "weights.bin").write_bytes(b"1234")
    with pytest.raises(ImportModelError, match="which has 4; the data file is truncated"):
        import_onnx(path)


@pytest.mark.parametrize("location", ["../weights.bin", "/etc/hostname", "", "a/../../weights.bin"])
def test_external_data_outside(tmp_path: Path, location: str) -> None:
    (tmp_path / "weights.bin").write_bytes(b"0" * 64)
    (tmp_path / "models").mkdir()
    with pytest.raises(ImportModelError, match="outside the model's directory"):
        import_onnx(external(tmp_path / "models", location))


def test_external_data_behind_a_link(tmp_path: Path) -> None:
    (tmp_path / "models").mkdir()
    path = external(tmp_path / "models")
    (tmp_path / "models" / "weights.bin").rename(tmp_path / "weights.bin")
    (tmp_path / "models" / "weights.bin").symlink_to(tmp_path / "weights.bin")
    with pytest.raises(ImportModelError, match="outside the model's directory"):
        import_onnx(path)


def test_external_data_of_bytes(tmp_path: Path) -> None:
    with pytest.raises(ImportModelError, match="give the path of the model instead"):
        import_onnx(external(tmp_path).read_bytes())


# ---- the way back --------------------------------------------------------------------------------


def test_write_back_changes_the_named_tensors_only(tmp_path: Path) -> None:
    original, tuned = linear(), f32(4, 2)
    write_back(original, {"w": tuned}, tmp_path / "tuned.onnx")
    graph = import_onnx(tmp_path / "tuned.onnx")
    np.testing.assert_array_equal(graph.data["w"], tuned)
    np.testing.assert_array_equal(
        graph.data["b"], numpy_helper.to_array(original.graph.initializer[1])
    )
    assert onnx.load(tmp_path / "tuned.onnx").graph.node == original.graph.node
    assert [p.name for p in tmp_path.iterdir()] == ["tuned.onnx"]


def test_write_back_without_changes_gives_the_same_file(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(linear().SerializeToString())
    state = {name: array for name, array in import_onnx(path).data.items()}
    write_back(path, state, tmp_path / "same.onnx")
    assert (tmp_path / "same.onnx").read_bytes() == path.read_bytes()


def test_equal_vectors_stored_once_are_tuned_apart(tmp_path: Path) -> None:
    text = """
        c = Identity b
        h = Add x b
        y = Add h c
    """
    model = model_of(nodes(text), X, weights={"b": f32(4)})
    assert set(import_onnx(model).params) == {"b", "c"}
    state = {"b": f32(4), "c": f32(4)}
    write_back(model, state, tmp_path / "tuned.onnx")
    again = import_onnx(tmp_path / "tuned.onnx")
    for name, array in state.items():
        np.testing.assert_array_equal(again.data[name], array)


def test_write_back_takes_external_data_in(tmp_path: Path) -> None:
    path = external(tmp_path)
    expected = import_onnx(path).data["b"]
    (tmp_path / "out").mkdir()
    write_back(path, {"w": f32(4, 2)}, tmp_path / "out" / "tuned.onnx")
    np.testing.assert_array_equal(import_onnx(tmp_path / "out" / "tuned.onnx").data["b"], expected)


@pytest.mark.parametrize(
    ("state", "message"),
    [
        ({"v": f32(2)}, r"has no tensors named 'v'"),
        ({"w": f32(2, 4)}, r"'w' of the ONNX model is f32\[4, 2\], got float32\[2, 4\]"),
        ({"b": np.zeros(2)}, r"'b' of the ONNX model is f32\[2\], got float64\[2\]"),
    ],
)
def test_write_back_refuses(tmp_path: Path, state: dict[str, np.ndarray], message: str) -> None:
    with pytest.raises(InputError, match=message):
        write_back(linear(), state, tmp_path / "tuned.onnx")
    assert not list(tmp_path.iterdir())
