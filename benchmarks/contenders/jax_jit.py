"""JAX: a Keras model, and its training step compiled by XLA."""

from typing import Any

import jax
import jax.numpy as jnp
import keras

from benchmarks.contenders import RATE, Begin, Case, Step
from benchmarks.keras_networks import NETWORKS, inputs_of, take_weights, train_only


def load(case: Case, variant: str) -> Begin:
    model = NETWORKS[case.workload.network](case.workload.batch)
    take_weights(model, case.arrays("weights.npz"))
    train_only(model, case.trained())
    arrays, labels = case.batch()
    inputs, target = [jnp.asarray(x) for x in inputs_of(arrays)], jnp.asarray(labels, jnp.int32)

    def begin() -> tuple[Step, dict[str, Any]]:
        return training_step(case, model, inputs, target), {}

    return begin


def training_step(
    case: Case, model: keras.Model, inputs: list[jax.Array], target: jax.Array
) -> Step:
    momentum = case.workload.momentum

    def loss_of(trained, others, inputs, target):
        logits, others = model.stateless_call(
            trained, others, inputs, training=case.batch_statistics
        )
        chosen = jnp.take_along_axis(jax.nn.log_softmax(logits), target[:, None], 1)
        return -jnp.mean(chosen), others

    def step(trained, others, momenta, inputs, target):
        found = jax.value_and_grad(loss_of, has_aux=True)(trained, others, inputs, target)
        (loss, others), gradients = found
        moves = gradients
        if momentum:
            moves = momenta = [momentum * m + g for m, g in zip(momenta, gradients, strict=True)]
        trained = [w - RATE * m for w, m in zip(trained, moves, strict=True)]
        return loss, (trained, others, momenta)

    compiled = jax.jit(step, donate_argnums=(0, 1, 2))
    trained = [v.value for v in model.trainable_variables]
    state = (trained, [v.value for v in model.non_trainable_variables], [])
    state = (*state[:2], [jnp.zeros_like(w) for w in trained] if momentum else [])

    def run() -> float:
        nonlocal state
        loss, state = compiled(*state, inputs, target)
        return float(loss)

    return run
