"""What a memo keeps, and what it lets go."""

from pockengine.ir.memo import Memo


def test_a_result_is_made_once() -> None:
    memo, made = Memo(), list[int]()
    for _ in range(2):
        memo.get("kind", "key", lambda: made.append(1))
    assert made == [1]


def test_what_was_used_last_is_kept() -> None:
    memo, made = Memo(), list[str]()
    for key in ("a", "b", "a", "c", "a", "b"):
        memo.get("kind", key, lambda key=key: made.append(key), limit=2)  # type: ignore[misc]
    assert made == ["a", "b", "c", "b"]


def test_results_are_of_the_object_and_not_of_its_equals() -> None:
    memo, first, second = Memo(), [1], [1]
    assert memo.of("kind", first, lambda: "first") == "first"
    assert memo.of("kind", second, lambda: "second") == "second"
    assert memo.of("kind", first, lambda: "again") == "first"
