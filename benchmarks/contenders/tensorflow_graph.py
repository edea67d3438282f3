"""TensorFlow: a Keras model, and its training step traced into one graph."""

from typing import Any

import keras
import tensorflow as tf

from benchmarks.contenders import MOMENTUM, RATE, Begin, Case, Step
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
        step = training_step(model, case.batch_statistics)
        return lambda: float(step(inputs, target)), {}

    return begin


def training_step(model: keras.Model, batch_statistics: bool) -> tf.types.experimental.Callable:
    chosen = [v.value for v in model.trainable_variables]
    momenta = [tf.Variable(tf.zeros_like(v)) for v in chosen]

    @tf.function
    def step(inputs: list[tf.Tensor], target: tf.Tensor) -> tf.Tensor:
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch(chosen)
            logits = model(inputs, training=batch_statistics)
            losses = tf.nn.sparse_softmax_cross_entropy_with_logits(target, logits)
            loss = tf.reduce_mean(losses)
        gradients = tape.gradient(loss, chosen)
        for variable, momentum, gradient in zip(chosen, momenta, gradients, strict=True):
            tf.raw_ops.ResourceApplyMomentum(
                var=variable.handle,
                accum=momentum.handle,
                lr=RATE,
                grad=tf.convert_to_tensor(gradient),  # an embedding's is sparse
                momentum=MOMENTUM,
            )
        return loss

    return step
