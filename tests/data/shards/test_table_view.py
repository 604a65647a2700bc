"""A selection finds its rows."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from lavie.data.shards.table_view import Selection


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 3000), st.floats(0, 1), st.integers(0, 99))
def test_a_selection_finds_every_row(n, share, seed):
    mask = np.random.default_rng(seed).random(n) < share
    selection = Selection(mask)
    assert (selection.mask == mask).all()
    assert [selection[i] for i in range(len(selection))] == np.flatnonzero(mask).tolist()
