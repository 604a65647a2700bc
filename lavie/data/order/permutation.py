"""Permute the samples of a dataset in each epoch, as a pure function of (seed, purpose, position).

Position p counts the clips of a whole run, over all ranks and steps. Each epoch is one permutation of the index, which
takes O(1) memory and time to evaluate at any place. So a resumed run starts at any position at once, and neither the
number of ranks nor that of workers changes what a position holds.
"""

from ...seeds import key64

ROUNDS = 8
"""Rounds of the Feistel network. Four make a permutation that is hard to tell from a random one; twice that costs
little beside reading a sample."""


class Permutation:
    """A seeded bijection of 0 <= i < n onto itself.

    A Feistel network permutes the 2**(2 * bits) >= n numbers of two halves of `bits` bits each. Where its result is n
    or more, it is applied again until the result is below n ("cycle walking"), which keeps the map a bijection.
    """

    def __init__(self, n: int, seed: int, epoch: int, purpose: str = "order") -> None:
        if n < 1:
            raise ValueError(f"wanted at least one element, got {n}")
        self.n = n
        self._bits = max(1, ((n - 1).bit_length() + 1) // 2)
        self._keys = [key64(seed, purpose, epoch, number) for number in range(ROUNDS)]

    def __call__(self, i: int) -> int:
        """Return the element at place i. Raises IndexError outside 0 <= i < n."""
        if not 0 <= i < self.n:
            raise IndexError(f"place {i} of a permutation of {self.n}")
        mask = (1 << self._bits) - 1
        # The walk is on a cycle that comes back to i < n, so it ends. The network permutes at most 4 n numbers, so the
        # walk takes at most 4 turns on average over all i.
        while True:
            high, low = i >> self._bits, i & mask
            for key in self._keys:
                high, low = low, high ^ (_mix(low ^ key) & mask)
            i = high << self._bits | low
            if i < self.n:
                return i


def sample_at(position: int, n: int, seed: int, purpose: str = "order") -> int:
    """Return which of n samples stands at a position: place position % n in the permutation of epoch position // n."""
    epoch, place = divmod(position, n)
    return Permutation(n, seed, epoch, purpose)(place)


def spare_at(position: int, attempt: int, n: int, seed: int, purpose: str = "order") -> int:
    """Return which of n samples replaces an unreadable one at a position, at the attempt 1, 2, ..."""
    return key64(seed, f"{purpose} spare", position, attempt) % n


def positions(step: int, global_batch: int, rank: int, world_size: int) -> range:
    """Return the positions that one rank takes in a step.

    The step takes [step * global_batch, (step + 1) * global_batch), and the ranks equal slices of it in their order.
    Raises ValueError if the global batch does not divide among the ranks.
    """
    if global_batch % world_size:
        raise ValueError(f"a global batch of {global_batch} does not divide among {world_size} ranks")
    share = global_batch // world_size
    first = step * global_batch + rank * share
    return range(first, first + share)


def image_positions(position: int, num_images: int) -> range:
    """Return the positions, in the order of the images, of those that join the clip at `position`."""
    return range(position * num_images, (position + 1) * num_images)


def _mix(x: int) -> int:
    """Return splitmix64's finaliser of a 64-bit number: every bit of x reaches every bit of the result."""
    x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9 & 0xFFFFFFFFFFFFFFFF
    x = (x ^ (x >> 27)) * 0x94D049BB133111EB & 0xFFFFFFFFFFFFFFFF
    return x ^ (x >> 31)
