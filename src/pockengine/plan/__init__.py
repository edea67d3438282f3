"""From a schedule to the place of every byte: lifetimes, sharing, offsets, and their proof."""
