"""Which channels of a tensor a scheme's ratio stands for: by weight norm, by gradient, by chance.

A ratio means the channels of the largest norm (`UpdateScheme.resolve`). The functions here put
other channels in its place, as many.
"""

from collections.abc import Mapping

import numpy as np

from pockengine.ir.graph import Graph
from pockengine.runtime.program import Array
from pockengine.scheme import Share, UpdateScheme


def by_score(graph: Graph, scheme: UpdateScheme, scores: Mapping[str, Array]) -> UpdateScheme:
    """The channels of the largest score, the earlier one of equals. Scores are one a channel.

    Tensors without a score keep their ratio.
    """
    shares: dict[str, Share] = dict(scheme.shares)
    for name, channels in scheme.resolve(graph).items():
        if channels is not None and name in scores:
            order = np.argsort(-np.asarray(scores[name]), kind="stable")
            shares[name] = tuple(sorted(order[: len(channels.indices)].tolist()))
    return UpdateScheme(shares)


def by_chance(graph: Graph, scheme: UpdateScheme, seed: int) -> UpdateScheme:
    """Channels drawn at random."""
    rng = np.random.default_rng(seed)
    partly = {name: c for name, c in scheme.resolve(graph).items() if c is not None}
    sizes = {name: graph.params[name].shape[c.axis] for name, c in partly.items()}
    return by_score(graph, scheme, {name: rng.random(size) for name, size in sizes.items()})
