"""All passes one after the other, as the compiler runs them: a step stays the step it was."""

from functools import partial

import numpy as np
import pytest
from nets import densenet, mobilenet, resnet, shufflenet, unet

from pockengine.autodiff.training import Recipe, training_graph
from pockengine.compiler import build_graphs
from pockengine.ir.graph import Graph
from pockengine.ir.interpret import interpret
from pockengine.job import Job
from pockengine.passes.layout import inverse
from pockengine.passes.mode import training_mode
from pockengine.scheme import UpdateScheme
from pockengine.target import Target

NETS = {
    "mobilenet, norms train": partial(mobilenet, norms_train=True),
    "mobilenet": mobilenet,
    "resnet": resnet,
    "densenet": densenet,
    "shufflenet": shufflenet,
    "unet": unet,
}


def upper_half(graph: Graph) -> UpdateScheme:
    """The later half of the parameters, and half of the input channels where there are several."""
    names = list(graph.params)[len(graph.params) // 2 :]
    several = {n for n in names if len(s := graph.params[n].shape) == 4 and s[1] > 1}
    return UpdateScheme.select(graph, {n: 0.5 if n in several else 1.0 for n in names})


def step_inputs(graph: Graph) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(3)
    special = {"lr": np.float32(0.1).reshape(()), "sample_weight": np.ones(2, np.float32)}
    shapes = {v.op.name: v.shape for v in graph.inputs}
    arrays = {n: rng.standard_normal(s).astype(np.float32) for n, s in shapes.items()}
    return {**arrays, **special, "target": rng.integers(0, 3, shapes["target"])}


@pytest.mark.parametrize("choose", [UpdateScheme.full, upper_half])
@pytest.mark.parametrize("name", NETS)
def test_a_step_stays_the_same(name, choose):
    graph = NETS[name]()
    job = Job.of(graph, "cross_entropy", "sgd", choose(graph), 2, Target.host())
    graphs, layouts = build_graphs(job, lambda *_: None)
    recipe = Recipe.of(job.loss, job.optimizer, job.selection)
    plain = training_graph(training_mode(graph), recipe)
    arrays = step_inputs(graphs["train"])
    want, got = interpret(plain, arrays), interpret(graphs["train"], arrays)
    np.testing.assert_allclose(got.outputs["loss"], want.outputs["loss"], rtol=1e-5)
    assert want.updates.keys() == got.updates.keys()
    for leaf, array in want.updates.items():
        new = got.updates[leaf]
        new = new.transpose(inverse(layouts[leaf])) if leaf in layouts else new
        step = array - plain.data[leaf]
        error = np.abs(step - (new - plain.data[leaf])).max()
        assert error < 2e-4 * np.abs(step).max() + 1e-6, leaf
