import numpy as np

from pockengine.ops.random import Dropout, RandomUniform, threefry

RNG = np.array([42, 7], np.int64)


def test_the_published_vectors_of_threefry() -> None:
    """The known answers of the paper's library, for key and counter all zeros, all ones, and pi."""
    zero, ones = np.zeros(1, np.uint32), np.full(1, 2**32 - 1, np.uint32)
    with np.errstate(over="ignore"):
        assert threefry((0, 0), zero, 0)[0] == 0x6B200159
        assert threefry((2**32 - 1, 2**32 - 1), ones, 2**32 - 1)[0] == 0x1CB996FC
        pi = np.array([0x243F6A88], np.uint32)
        assert threefry((0x13198A2E, 0x03707344), pi, 0x85A308D3)[0] == 0xC4923A9C


def test_uniform_numbers() -> None:
    u = RandomUniform((200, 100), 3).ref(RNG)
    assert u.min() >= 0 and u.max() < 1
    assert abs(u.mean() - 0.5) < 0.01 and abs(u.var() - 1 / 12) < 0.002
    np.testing.assert_array_equal(u, RandomUniform((200, 100), 3).ref(RNG))
    for other in (RandomUniform((200, 100), 4).ref(RNG), RandomUniform((200, 100), 3).ref(RNG + 1)):
        assert abs(np.corrcoef(u.ravel(), other.ravel())[0, 1]) < 0.03


def test_element_i_does_not_depend_on_the_shape() -> None:
    whole, part = RandomUniform((8, 5), 0).ref(RNG), RandomUniform((3, 5), 0).ref(RNG)
    np.testing.assert_array_equal(whole[:3], part)


def test_dropout_keeps_the_mean() -> None:
    y = Dropout(0.25, 1).ref(np.ones((100, 100), np.float32), RNG)
    assert set(np.unique(y)) == {np.float32(0), np.float32(1 / 0.75)}
    assert abs(y.mean() - 1) < 0.03
