"""Damage to the state dict of a network, for the tests of what reads weights."""

FREQUENCIES = ".attn_temp.rotary_emb.freqs"
"""How the names of rotary constants end in a released file."""


def drop(state, name):
    """Remove the tensor `name`, and return what a load of the state dict says of it."""
    del state[name]
    return "1 missing"


def add(state, name):
    """Add a tensor beside the tensor `name`, and return what a load of the state dict says of it."""
    state[name + "_old"] = state[name]
    return "1 unexpected"


def reshape(state, name):
    """Give the tensor `name` another shape, and return what a load of the state dict says of it."""
    state[name] = state[name].flatten()[:-1]
    return "1 of another shape"
