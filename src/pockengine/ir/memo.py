"""Results that are kept, so that planning a model for many schemes does nothing twice.

A memo is for the jobs of one model that differ in their schemes alone: what is kept is looked up by
what decides it beside them. Whoever plans several such jobs makes one and hands it on.
"""

from collections.abc import Callable, Hashable
from typing import Any, TypeVar

T = TypeVar("T")
LIMIT = 128  # graphs or schedules of a kind: they are large, and schemes are many
ARRAYS = 1 << 16  # arrays of a kind: a few of each weight


class Memo:
    """What was made before, by kind and key; of each kind the few that were used last.

    `checks` says whether graphs and plans are verified: not where they are only to be measured.
    """

    def __init__(self, checks: bool = True) -> None:
        self.checks = checks
        self._kinds: dict[str, dict[Hashable, Any]] = {}

    def get(self, kind: str, key: Hashable, make: Callable[[], T], limit: int = LIMIT) -> T:
        """The result of that kind and key, made if it is not there."""
        known = self._kinds.setdefault(kind, {})
        found: T = known.pop(key) if key in known else make()  # which may need others of the kind
        known[key] = found
        while len(known) > limit:
            del known[next(iter(known))]
        return found

    def of(
        self, kind: str, thing: object, make: Callable[[], T], *more: Hashable, limit: int = LIMIT
    ) -> T:
        """The result for this very object, and what else decides it."""
        kept, found = self.get(kind, (id(thing), *more), lambda: (thing, make()), limit)
        assert kept is thing  # kept beside the result, so that no other object has its id
        return found
