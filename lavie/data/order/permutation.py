"""The order of the samples, as a pure function of (seed, purpose, global position).

Position p counts the clips of a whole run. Each epoch is one permutation of the index, found in O(1) memory and time,
so a resumed run starts at any position at once, and neither ranks nor workers change what a position holds.
"""

from ...seeds import key64

ROUNDS = 8


class Permutation:
    """A seeded bijection on 0 <= i < n: a Feistel network that walks its cycle until it is inside n."""

    def __init__(self, n: int, seed: int, epoch: int, purpose: str = "order") -> None:
        if n < 1:
            raise ValueError(f"wanted at least one element, got {n}")
        self.n = n
        self._bits = max(1, ((n - 1).bit_length() + 1) // 2)
        self._keys = [key64(seed, purpose, epoch, number) for number in range(ROUNDS)]

    def __call__(self, i: int) -> int:
        """The element at place i."""
        if not 0 <= i < self.n:
            raise IndexError(f"place {i} of a permutation of {self.n}")
        mask = (1 << self._bits) - 1
        while True:  # the walk is on a cycle that holds an element inside n, so it ends; 4 rounds at most on average
            left, right = i >> self._bits, i & mask
            for key in self._keys:
                left, right = right, left ^ (_mix(right ^ key) & mask)
            i = left << self._bits | right
            if i < self.n:
                return i


def sample_at(position: int, n: int, seed: int, purpose: str = "order") -> int:
    """Which of n samples stands at a global position: epoch position // n, place position % n in its permutation."""
    epoch, place = divmod(position, n)
    return Permutation(n, seed, epoch, purpose)(place)


def spare_at(position: int, attempt: int, n: int, seed: int, purpose: str = "order") -> int:
    """Which of n samples stands in at a position whose own cannot be read, at the attempt 1, 2, ..."""
    return key64(seed, f"{purpose} spare", position, attempt) % n


def positions(step: int, global_batch: int, rank: int, world_size: int) -> range:
    """The global positions that one rank takes in one step: its slice of [step * G, (step + 1) * G)."""
    if global_batch % world_size:
        raise ValueError(f"a global batch of {global_batch} does not divide among {world_size} ranks")
    share = global_batch // world_size
    first = step * global_batch + rank * share
    return range(first, first + share)


def image_positions(position: int, num_images: int) -> range:
    """The positions, in the images' own order, of the images that join the clip at `position`."""
    return range(position * num_images, (position + 1) * num_images)


def _mix(x: int) -> int:
    """The finaliser of splitmix64: every bit of x reaches every bit of the result."""
    x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9 & 0xFFFFFFFFFFFFFFFF
    x = (x ^ (x >> 27)) * 0x94D049BB133111EB & 0xFFFFFFFFFFFFFFFF
    return x ^ (x >> 31)
