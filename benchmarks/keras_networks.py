"""The networks of networks.py in Keras, for TensorFlow and JAX; images are channels last.

Layers have the PyTorch modules' names, so that `take_weights` finds each tensor, and fails where an
architecture differs. Under a stride, "same" pads more to the bottom and right than PyTorch does.
"""

from collections.abc import Callable, Mapping

import keras
import numpy as np
from keras import layers, ops

# The name of a Keras variable -> the name of PyTorch's parameter or buffer, and its axes in it.
SUFFIXES = {
    "kernel": "weight",
    "gamma": "weight",
    "embeddings": "weight",
    "bias": "bias",
    "beta": "bias",
    "moving_mean": "running_mean",
    "moving_variance": "running_var",
}
CHANNELS_LAST = {2: (1, 0), 3: (2, 1, 0), 4: (2, 3, 1, 0)}  # by rank, of kernels


def torch_name(variable: keras.Variable) -> str:
    layer, _, own = variable.path.rpartition("/")
    return f"{layer.rpartition('/')[2]}.{SUFFIXES[own]}"


def take_weights(model: keras.Model, weights: Mapping[str, np.ndarray]) -> None:
    """Copies PyTorch's weights. Raises ValueError when the model is not the same network."""
    left = {n for n in weights if not n.endswith("num_batches_tracked")}
    for variable in model.variables:
        name = torch_name(variable)
        array = weights[name]
        if variable.path.endswith("kernel"):
            array = array.transpose(CHANNELS_LAST[array.ndim])
            if "depthwise" in variable.path or array.shape != tuple(variable.shape):
                array = array.transpose(0, 1, 3, 2)  # depthwise: one input channel for each
        variable.assign(array)
        left.remove(name)
    if left:
        raise ValueError(f"the Keras network lacks {', '.join(sorted(left))}")


def train_only(model: keras.Model, names: set[str]) -> None:
    """Makes the variables of these names the trainable ones."""
    for variable in model.trainable_variables:
        variable.trainable = torch_name(variable) in names


def inputs_of(arrays: Mapping[str, np.ndarray]) -> list[np.ndarray]:
    """The batch as the network takes it: channels last, and the tokens in 32 bits."""
    if "input_ids" in arrays:
        return [arrays["input_ids"].astype(np.int32), arrays["attention_mask"].astype(np.int32)]
    (x,) = arrays.values()
    return [np.ascontiguousarray(np.moveaxis(x, 1, -1))]


def conv_norm(x, name: str, filters: int, kernel: int, stride: int = 1, eps: float = 1e-5):
    x = layers.Conv2D(
        filters, kernel, stride, padding="same", use_bias=False, name=f"{name}.convolution"
    )(x)
    return layers.BatchNormalization(epsilon=eps, name=f"{name}.normalization")(x)


def mobilenet_v2(size: int, width: float, batch: int) -> keras.Model:
    def rounded(channels: int) -> int:
        near = max(8, int(channels * width + 4) // 8 * 8)
        return near + 8 if near < 0.9 * channels * width else near

    def conv(x, name: str, filters: int, kernel: int = 1, stride: int = 1):
        return conv_norm(x, name, filters, kernel, stride, 1e-3)

    def depthwise(x, name: str, stride: int):
        x = layers.DepthwiseConv2D(
            3, stride, padding="same", use_bias=False, name=f"{name}.convolution"
        )(x)
        x = layers.BatchNormalization(epsilon=1e-3, name=f"{name}.normalization")(x)
        return ops.relu6(x)

    image = keras.Input((size, size, 3), batch)
    stem = "mobilenet_v2.conv_stem"
    x = ops.relu6(conv(image, f"{stem}.first_conv", rounded(32), 3, 2))
    x = conv(depthwise(x, f"{stem}.conv_3x3", 1), f"{stem}.reduce_1x1", rounded(16))
    number = 0
    for channels, repeats, first in (
        *((24, 2, 2), (32, 3, 2), (64, 4, 2), (96, 3, 1), (160, 3, 2), (320, 1, 1)),
    ):
        for stride in [first] + [1] * (repeats - 1):
            name = f"mobilenet_v2.layer.{number}"
            y = ops.relu6(conv(x, f"{name}.expand_1x1", 6 * x.shape[-1]))
            y = depthwise(y, f"{name}.conv_3x3", stride)
            y = conv(y, f"{name}.reduce_1x1", rounded(channels))
            x = x + y if stride == 1 and x.shape[-1] == y.shape[-1] else y
            number += 1
    x = ops.relu6(conv(x, "mobilenet_v2.conv_1x1", 1280))
    logits = layers.Dense(1000, name="classifier")(layers.GlobalAveragePooling2D()(x))
    return keras.Model([image], logits)


def resnet50(batch: int) -> keras.Model:
    image = keras.Input((224, 224, 3), batch)
    x = ops.relu(conv_norm(image, "resnet.embedder.embedder", 64, 7, 2))
    x = layers.MaxPooling2D(3, 2, padding="same")(x)
    for stage, blocks in enumerate((3, 4, 6, 3)):
        for block in range(blocks):
            name = f"resnet.encoder.stages.{stage}.layers.{block}"
            stride, width = (2 if stage and not block else 1), 64 << stage
            y = ops.relu(conv_norm(x, f"{name}.layer.0", width, 1))
            y = ops.relu(conv_norm(y, f"{name}.layer.1", width, 3, stride))
            y = conv_norm(y, f"{name}.layer.2", 4 * width, 1)
            x = x if block else conv_norm(x, f"{name}.shortcut", 4 * width, 1, stride)
            x = ops.relu(x + y)
    logits = layers.Dense(1000, name="classifier.1")(layers.GlobalAveragePooling2D()(x))
    return keras.Model([image], logits)


def minilm(batch: int, length: int = 128, hidden: int = 384, heads: int = 12) -> keras.Model:
    def norm(x, name: str):
        return layers.LayerNormalization(epsilon=1e-12, name=f"{name}.LayerNorm")(x)

    def attention(x, mask, name: str):
        def part(which: str):
            y = layers.Dense(hidden, name=f"{name}.self.{which}")(x)
            return ops.reshape(y, (batch, length, heads, hidden // heads))

        y = ops.dot_product_attention(part("query"), part("key"), part("value"), mask=mask)
        y = layers.Dense(hidden, name=f"{name}.output.dense")(
            ops.reshape(y, (batch, length, hidden))
        )
        return norm(x + y, f"{name}.output")

    ids = keras.Input((length,), batch, dtype="int32")
    attended = keras.Input((length,), batch, dtype="int32")
    mask = ops.reshape(ops.cast(attended, "bool"), (batch, 1, 1, length))
    rows = {"word": (30522, ids), "token_type": (2, ops.zeros_like(ids))}
    rows["position"] = (512, ops.cumsum(ops.ones_like(ids), axis=1) - 1)
    x = sum(
        layers.Embedding(count, hidden, name=f"bert.embeddings.{which}_embeddings")(index)
        for which, (count, index) in rows.items()
    )
    x = norm(x, "bert.embeddings")
    for number in range(6):
        name = f"bert.encoder.layer.{number}"
        x = attention(x, mask, f"{name}.attention")
        y = layers.Dense(4 * hidden, name=f"{name}.intermediate.dense")(x)
        y = layers.Dense(hidden, name=f"{name}.output.dense")(ops.gelu(y, approximate=False))
        x = norm(x + y, f"{name}.output")
    pooled = ops.tanh(layers.Dense(hidden, name="bert.pooler.dense")(x[:, 0]))
    return keras.Model([ids, attended], layers.Dense(2, name="classifier")(pooled))


def wrist(batch: int) -> keras.Model:
    samples = keras.Input((128, 6), batch)
    x = samples
    for number, (filters, kernel, stride) in enumerate(
        ((32, 7, 2), (64, 5, 1), (64, 5, 2), (96, 3, 1), (128, 3, 1))
    ):
        name = f"blocks.{number}.conv"
        x = layers.Conv1D(filters, kernel, stride, "same", activation="relu", name=name)(x)
    return keras.Model([samples], layers.Dense(7, name="head")(layers.GlobalAveragePooling1D()(x)))


NETWORKS: dict[str, Callable[[int], keras.Model]] = {
    "mobilenetv2": lambda batch: mobilenet_v2(224, 1.0, batch),
    "mobilenetv2-0.35": lambda batch: mobilenet_v2(128, 0.35, batch),
    "resnet50": resnet50,
    "bert": minilm,
    "wrist": wrist,
}
