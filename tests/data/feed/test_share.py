"""Which positions of a step each rank reads."""

import pytest

from lavie.data.feed.share import Share


@pytest.mark.parametrize("world_size, accumulation, batch", ((1, 1, 1), (2, 3, 2), (4, 1, 3)))
def test_the_ranks_divide_each_step_in_their_order(world_size, accumulation, batch):
    shares = [
        Share(seed=0, train_batch_size=batch, gradient_accumulation_steps=accumulation, rank=r, world_size=world_size)
        for r in range(world_size)
    ]
    total = world_size * accumulation * batch
    assert {share.global_batch for share in shares} == {total}
    for step in (0, 1, 10**12):
        assert {len(share.positions(step)) for share in shares} == {accumulation * batch}
        positions = [position for share in shares for position in share.positions(step)]
        assert positions == list(range(step * total, (step + 1) * total))


def test_alone_a_process_reads_every_position():
    assert Share(seed=0, train_batch_size=3).positions(2) == range(6, 9)
