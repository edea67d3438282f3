"""TensorFlow: a Keras model, and its training step traced into one graph."""

from collections.abc import Callable
from typing import Any

import keras
import tensorflow as tf

from benchmarks.contenders import RATE, Begin, Case, Step
from benchmarks.keras_networks import NETWORKS, inputs_of, take_weights, train_only


def load(case: Case, variant: str) -> Begin:
    tf.config.threading.set_intra_op_parallelism_threads(case.threads)
    tf.config.threading.set_inter_op_parallelism_threads(case.threads)
    model = NETWORKS[case.workload.network](case.workload.batch)
    take_weights(model, case.arrays("weights.npz"))
    train_only(model, case.trained())
    arrays, labels = case.batch()
    inputs, target = [tf.constant(x) for x in inputs_of(arrays)], tf.constant(labels)

    def begin() -> tuple[Step, dict[str, Any]]:
        step = training_step(case, model)
        return lambda: float(step(inputs, target)), {}

    return begin


def training_step(case: Case, model: keras.Model) -> tf.types.experimental.Callable:
    chosen = [v.value for v in model.trainable_variables]
    update = updater(chosen, case.workload.momentum)

    @tf.function
    def step(inputs: list[tf.Tensor], target: tf.Tensor) -> tf.Tensor:
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch(chosen)
            logits = model(inputs, training=case.batch_statistics)
            losses = tf.nn.sparse_softmax_cross_entropy_with_logits(target, logits)
            loss = tf.reduce_mean(losses)
        gradients = tape.gradient(loss, chosen)
        for variable, gradient in zip(chosen, gradients, strict=True):
            update(variable, tf.convert_to_tensor(gradient))  # an embedding's is sparse
        return loss

    return step


def updater(
    chosen: list[tf.Variable], momentum: float
) -> Callable[[tf.Variable, tf.Tensor], tf.Operation]:
    """Applies a gradient to one of the chosen variables."""
    if not momentum:
        return lambda variable, gradient: tf.raw_ops.ResourceApplyGradientDescent(
            var=variable.handle, alpha=RATE, delta=gradient
        )
    momenta = {v.ref(): tf.Variable(tf.zeros_like(v)) for v in chosen}
    return lambda variable, gradient: tf.raw_ops.ResourceApplyMomentum(
        var=variable.handle,
        accum=momenta[variable.ref()].handle,
        lr=RATE,
        grad=gradient,
        momentum=momentum,
    )
