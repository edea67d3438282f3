"""From a forward graph to a training graph: loss, gradients, shares of gradients, optimizer."""
