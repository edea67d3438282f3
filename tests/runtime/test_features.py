"""The feature cache: what it keeps, for whom, how much of it, and what damage does."""

import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from small_models import ConvNet, image_graph, images, seeded

import pockengine as pe
from pockengine.errors import InputError
from pockengine.ir.op import Array
from pockengine.runtime.features import HEADER, WORDS, FeatureCache, content_hash
from pockengine.runtime.program import Program

ONE = pe.Target.host(threads=1)


def head_program(shift: float = 0.0) -> Program:
    model = seeded(ConvNet)
    model.depthwise.bias.data += shift
    graph = image_graph(model)
    scheme = pe.UpdateScheme.head_only(graph)
    return pe.compile(graph, scheme=scheme, batch=4, target=ONE)


@pytest.fixture(scope="module")
def program() -> Program:
    return head_program()


class Counted:
    """A session that counts how often the prefix runs, for one sample or several."""

    def __init__(self, program: Program, cache: FeatureCache | None) -> None:
        self.session = pe.Session(program, cache=cache)
        self.samples = 0
        runner = self.session._prefix
        assert runner is not None
        compute = runner._compute

        def counting(arrays: Any, rows: Any) -> None:
            self.samples += len(rows)
            compute(arrays, rows)

        runner._compute = counting  # type: ignore[method-assign]

    def computed(self, call: Callable[[pe.Session], object]) -> int:
        before = self.samples
        call(self.session)
        return self.samples - before


STORES = {"memory": False, "folder": True}


@pytest.fixture(params=STORES)
def cache(request: pytest.FixtureRequest, tmp_path: Path) -> FeatureCache:
    return FeatureCache("1MB", tmp_path / "features" if STORES[request.param] else None)


# ---- what is computed ----------------------------------------------------------------------------


def test_a_sample_is_computed_once(program: Program, cache: FeatureCache) -> None:
    x, y = images(10)
    cached, plain = Counted(program, cache), pe.Session(program)
    for epoch in range(3):
        for first in (0, 4, 8):
            batch = x[first : first + 4], y[first : first + 4]
            losses = []
            count = cached.computed(lambda s, b=batch, to=losses: to.append(s.step(*b, 0.1)))
            assert count == (0 if epoch else len(batch[0]))
            assert losses == [plain.step(*batch, 0.1)]
    assert len(cache) == 10 and cache.nbytes == 10 * 8 * 4
    a, b = cached.session.state_dict(), plain.state_dict()
    assert all(a[n].tobytes() == b[n].tobytes() for n in a)
    assert cached.computed(lambda s: s.evaluate(x, y)) == 0
    assert cached.computed(lambda s: s.predict(x[::-1].copy())) == 0
    np.testing.assert_array_equal(cached.session.predict(x), plain.predict(x))


def test_batches_of_old_and_new_samples(program: Program, cache: FeatureCache) -> None:
    x, _ = images(8)
    counted, plain = Counted(program, cache), pe.Session(program)
    counted.session.predict(x[:3])
    mixed = x[[5, 1, 6, 2]]
    found = []
    assert counted.computed(lambda s: found.append(s.predict(mixed))) == 2
    np.testing.assert_array_equal(found[0], plain.predict(mixed))


def test_another_model_or_another_sample_finds_nothing(
    program: Program, cache: FeatureCache
) -> None:
    x, _ = images(4)
    assert Counted(program, cache).computed(lambda s: s.predict(x)) == 4
    assert Counted(program, cache).computed(lambda s: s.predict(x)) == 0
    assert Counted(head_program(1e-6), cache).computed(lambda s: s.predict(x)) == 4
    x[1, 2, 3, 4] = np.nextafter(x[1, 2, 3, 4], np.float32(9))
    assert Counted(program, cache).computed(lambda s: s.predict(x)) == 1


def test_training_the_suffix_does_not_age_the_cache(program: Program, cache: FeatureCache) -> None:
    counted = Counted(program, cache)
    counted.session.step(*images(4), 0.1)
    counted.session.load_state_dict({"head.bias": np.ones(5)})
    assert counted.computed(lambda s: s.step(*images(4), 0.1)) == 0


# ---- samples by name -----------------------------------------------------------------------------


def test_what_is_kept_is_not_loaded(program: Program, cache: FeatureCache) -> None:
    x, y = images(10)
    asked: list[list[Any]] = []

    def load(names: list[Any]) -> Array:
        asked.append(names)
        return x[[int(name) for name in names]]

    named, plain = pe.Session(program, cache=cache), pe.Session(program)
    for batch in ([3, 1, 4], [1, 5, 9, 2], [3, 4, 5]):
        losses = (
            named.step(load, y[batch], 0.1, samples=np.array(batch)),
            plain.step(x[batch], y[batch], 0.1),
        )
        assert losses[0] == losses[1]
    assert asked == [[3, 1, 4], [5, 9, 2]]
    every = list(range(10))
    assert named.evaluate(load, y, samples=every) == plain.evaluate(x, y)
    np.testing.assert_array_equal(named.predict(load, samples=every), plain.predict(x))
    assert sorted(name for names in asked for name in names) == every
    named.predict(load, samples=[str(i) for i in every])  # "1" is not 1
    assert sum(map(len, asked)) == 20


def test_names_without_a_cache_load_everything(program: Program) -> None:
    x, y = images(6)
    asked: list[list[Any]] = []

    def load(names: list[Any]) -> Array:
        asked.append(names)
        return x[names]

    with pe.Session(program) as session, pe.Session(program) as other:
        assert session.evaluate(load, y, samples=range(6)) == other.evaluate(x, y)
    assert asked == [[0, 1, 2, 3], [4, 5]]


def test_what_does_not_fit_is_refused(program: Program) -> None:
    x, y = images(4)

    def refused(message: str, *given: Any, **named: Any) -> None:
        with pe.Session(program, cache=FeatureCache()) as session:
            with pytest.raises(InputError, match=message):
                session.step(*given, **named)
            assert session.step(x, y) > 0

    refused("names of samples and a function that loads them belong together", x, y, samples="abcd")
    refused("names of samples and a function that loads them belong together", lambda n: x, y)
    refused("was to load 4 samples, it gave 3", lambda n: x[:3], y, samples=range(4))
    refused(r"'x' expects shape \[samples, 3, 12", lambda n: x[0], y, samples=range(4))
    refused("3 samples are named, and there are labels for 4", lambda n: x, y, samples=range(3))
    refused("named by strings or whole numbers, got 1.5", lambda n: x, y[:1], samples=[1.5])
    refused("step takes 1 to 4|train takes 1 to 4", lambda n: x, y[:0], samples=[])
    full = pe.compile(image_graph(seeded(ConvNet)), batch=4, target=ONE)
    with pytest.raises(InputError, match="no frozen prefix whose features a cache could keep"):
        pe.Session(full, cache=FeatureCache())


# ---- size ----------------------------------------------------------------------------------------

RECORD = 32  # bytes of a sample's features


def test_the_least_recently_used_make_room(program: Program, tmp_path: Path) -> None:
    x, _ = images(8)
    for folder in (None, tmp_path):
        counted = Counted(program, FeatureCache(3 * RECORD, folder))
        for sample in (0, 1, 2, 0, 3):  # 3 takes the place of 1
            counted.session.predict(x[sample : sample + 1])
        for sample, expected in ((0, 0), (2, 0), (3, 0), (1, 1), (0, 1)):
            here = x[sample : sample + 1]
            assert counted.computed(lambda s, here=here: s.predict(here)) == expected
    assert len(list(tmp_path.glob("*.features"))) == 3


def test_a_batch_larger_than_the_cache(program: Program) -> None:
    x, y = images(4)
    for limit in (0, RECORD - 1, 2 * RECORD):
        cache = FeatureCache(limit)
        with pe.Session(program, cache=cache) as session, pe.Session(program) as plain:
            for _ in range(2):
                assert session.step(x, y) == plain.step(x, y)
        assert cache.nbytes <= limit and len(cache) == limit // RECORD


def test_limits_in_words() -> None:
    assert FeatureCache("1.5 MiB").limit == 3 << 19 and FeatureCache(10).limit == 10
    with pytest.raises(InputError, match="an amount of memory such as 64MB"):
        FeatureCache("much")
    with pytest.raises(InputError, match="a limit of at least 0 bytes, got -1"):
        FeatureCache(-1)


# ---- folders -------------------------------------------------------------------------------------


def test_a_folder_outlives_the_session(program: Program, tmp_path: Path) -> None:
    x, y = images(8)
    with pe.Session(program, cache=FeatureCache(folder=tmp_path / "a" / "b")) as session:
        wanted = session.evaluate(x, y)
    again = FeatureCache(8 * RECORD, tmp_path / "a" / "b")
    assert len(again) == 8 and again.nbytes == 8 * RECORD
    counted = Counted(program, again)
    assert counted.computed(lambda s: s.evaluate(x, y)) == 0
    assert counted.session.evaluate(x, y) == wanted
    assert len(FeatureCache(3 * RECORD, tmp_path / "a" / "b")) == 3
    assert len(list((tmp_path / "a" / "b").iterdir())) == 3


def test_two_caches_share_a_folder(program: Program, tmp_path: Path) -> None:
    x, _ = images(4)
    one, other = (Counted(program, FeatureCache("1MB", tmp_path)) for _ in range(2))
    assert one.computed(lambda s: s.predict(x)) == 4
    assert other.computed(lambda s: s.predict(x)) == 0
    for path in tmp_path.iterdir():
        path.unlink()
    assert other.computed(lambda s: s.predict(x)) == 4


@pytest.mark.parametrize("damage", ["cut", "empty", "bit", "header", "long"])
def test_a_damaged_file_is_a_miss(program: Program, tmp_path: Path, damage: str) -> None:
    x, y = images(1)
    with pe.Session(program, cache=FeatureCache(folder=tmp_path)) as session:
        wanted = session.evaluate(x, y)
    (path,) = tmp_path.iterdir()
    data = bytearray(path.read_bytes())
    data = {
        "cut": data[:-1],
        "empty": data[:0],
        "bit": data[:-3] + bytes([data[-3] ^ 16]) + data[-2:],
        "header": b"x" + data[1:],
        "long": data + b"x",
    }[damage]
    path.write_bytes(data)
    with pe.Session(program, cache=FeatureCache(folder=tmp_path)) as session:
        with pytest.warns(UserWarning, match="is damaged; its sample is computed again"):
            assert session.evaluate(x, y) == wanted
        assert session.evaluate(x, y) == wanted  # and kept again, whole
    assert path.stat().st_size == HEADER.size + RECORD


def test_halves_of_files_are_cleared_away_when_old(tmp_path: Path) -> None:
    old, new = tmp_path / ".a.part", tmp_path / ".b.part"
    for path in (old, new):
        path.write_bytes(b"half")
    os.utime(old, (time.time() - 7200,) * 2)
    assert len(FeatureCache(folder=tmp_path)) == 0
    assert not old.exists() and new.exists()


def test_a_folder_that_cannot_be(tmp_path: Path, program: Program) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="cannot be a folder of features"):
        FeatureCache(folder=tmp_path / "file")
    cache = FeatureCache(folder=tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    session, plain = pe.Session(program, cache=cache), pe.Session(program)
    with pytest.warns(UserWarning, match="features are not kept in"):
        assert session.evaluate(*images(2)) == plain.evaluate(*images(2))


# ---- the hash of a sample ------------------------------------------------------------------------


def test_every_bit_changes_the_hash() -> None:
    raw = np.random.default_rng(0).integers(0, 256, 8 * WORDS * 3 + 77, dtype=np.uint8)
    seen = {content_hash(raw)}
    places = np.random.default_rng(1).integers(0, raw.size, 300)
    for place in [0, raw.size - 1, *places]:
        for bit in range(8):
            raw[place] ^= 1 << bit
            seen.add(content_hash(raw))
            raw[place] ^= 1 << bit
    assert len(seen) == 1 + 302 * 8 - 8 * (302 - len({0, raw.size - 1, *places.tolist()}))


def test_signs_permutations_shifts_and_lengths_change_the_hash() -> None:
    x = np.random.default_rng(0).standard_normal(4 * WORDS).astype(np.float32)
    signs = x.copy()
    signs[[1, 3]] *= -1  # only the uppermost bits of two words
    blocks = x.reshape(2, -1)[::-1].copy()
    swapped = x.copy()
    swapped[:2] = x[1::-1]
    zeros = [np.zeros(n, np.uint8) for n in range(0, 40 * WORDS, 4 * WORDS)]
    variants = [x, -x, signs, blocks, swapped, np.roll(x, 1), np.roll(x, 2), x[:-1], *zeros]
    assert len({content_hash(v) for v in variants}) == len(variants)


def test_the_hash_is_the_same_everywhere() -> None:
    """Files in a folder are found again by other machines and versions."""
    wanted = "38356c32d51b8c3256bce485f715ae4c"
    assert content_hash(np.arange(70000, dtype=np.uint8)).hex() == wanted
    array = np.arange(60000, dtype=np.float32).reshape(100, 600)
    assert content_hash(array[:, ::2]) == content_hash(array[:, ::2].copy())
