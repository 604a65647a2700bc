"""Weights in slices and whole again, under every ZeRO stage: bit for bit."""

import pytest
import torch

from lavie.testing import run_distributed
from tests.training.runs import deepspeed_json, make_config


def gathered_equals_built(config, settings) -> dict[str, bool]:
    """For each parameter, whether what the ranks hold in slices is, gathered, what the network was built with."""
    from lavie.training.deepspeed import build_engine, init_distributed, resolve_json
    from lavie.training.ema import EMA, gathered_weights
    from lavie.training.trainer import build_network

    init_distributed()
    network = build_network(config)
    before = {name: p.detach().clone() for name, p in network.named_parameters()}
    engine = build_engine(network, config, resolve_json(settings, config, torch.distributed.get_world_size()))
    equal = {}
    for average in (None, EMA(engine.module, 0.9)):
        after = dict(gathered_weights(engine.module, average))
        assert after.keys() == before.keys()
        for name in before:
            equal[name] = torch.equal(before[name].view(torch.int32), after[name].view(torch.int32))
    return equal


@pytest.mark.slow
@pytest.mark.parametrize("stage, ranks", ((3, 3), (2, 3), (1, 2), (0, 2)))
def test_gathering_restores_every_bit(tmp_path, stage, ranks):
    config = make_config(tmp_path, tmp_path / "run", trainable="temporal" if stage == 3 else "all")
    for equal in run_distributed(gathered_equals_built, ranks, config, deepspeed_json(tmp_path, stage)):
        assert all(equal.values()), [name for name, same in equal.items() if not same]
