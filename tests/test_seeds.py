"""Random numbers depend on the seed, the purpose and every position, by a rule that resumed runs rely on."""

import hashlib
import itertools

import numpy as np

from lavie.seeds import key64, numpy_generator, torch_generator, uniform


def test_keys_are_the_hash_of_their_words():
    digest = hashlib.blake2b(b"7/noise/3/12", digest_size=8).digest()
    expected = sum(byte << (8 * place) for place, byte in enumerate(digest))
    assert key64(7, "noise", 3, 12) == expected
    assert key64(7, "noise") == int.from_bytes(hashlib.blake2b(b"7/noise/", digest_size=8).digest(), "little")


def test_generators_start_from_the_key():
    key = key64(7, "noise", 3)
    assert torch_generator(7, "noise", 3).initial_seed() == key // 2
    expected = np.random.Generator(np.random.Philox(key)).random(4)
    assert np.array_equal(numpy_generator(7, "noise", 3).random(4), expected)
    assert uniform(7, "noise", 3) == key / 2.0**64


def test_every_word_counts():
    positions = ((), (0,), (1,), (0, 1), (1, 0), (10,))
    keys = {key64(seed, purpose, *at) for seed in (0, 1) for purpose in "ab" for at in positions}
    assert len(keys) == 2 * 2 * 6


def test_uniform_numbers_fill_the_unit_interval():
    numbers = np.array([uniform(0, "u", i, j) for i, j in itertools.product(range(40), range(50))])
    assert 0 <= numbers.min() < 0.01 and 0.99 < numbers.max() < 1
    assert abs(numbers.mean() - 0.5) < 0.03 and abs(np.corrcoef(numbers[1:], numbers[:-1])[0, 1]) < 0.1
