"""The average of the weights against a float64 reference, in slices on one rank and on two."""

import pytest
import torch

from lavie.testing import TOLERANCES, relative_error, run_distributed
from tests.training.runs import deepspeed_json, make_config


def errors_of_the_average(config, settings) -> dict[str, float]:
    """Train some steps; the relative error of each gathered average against one kept in float64 beside it."""
    from lavie.training.ema import gathered_weights
    from lavie.training.trainer import Trainer

    trainer = Trainer(config, settings)
    module, ema = trainer.engine.module, trainer.ema
    reference = {name: w.double() for name, w in gathered_weights(module, None)}
    update = ema.update

    def update_both(step: int) -> None:
        update(step)
        decay = min(config.ema_decay, (1 + step) / (10 + step))
        for name, weight in gathered_weights(module, None):
            reference[name] = decay * reference[name] + (1 - decay) * weight.double()

    ema.update = update_both
    trainer.fit()
    final, current = dict(gathered_weights(module, ema)), dict(gathered_weights(module, None))
    moved = [name for name in final if not torch.equal(final[name], current[name])]
    assert len(moved) > 0.9 * len(final)  # it is an average, not the weights themselves
    return {name: relative_error(final[name], reference[name]) for name in final if reference[name].any()}


@pytest.mark.slow
@pytest.mark.parametrize("stage, ranks", ((3, 2), (2, 2), (0, 1)))
def test_equals_a_float64_reference(rendered, tmp_path, stage, ranks):
    config = make_config(rendered, tmp_path / "run", max_train_steps=12, train_batch_size=2 // ranks)
    for errors in run_distributed(errors_of_the_average, ranks, config, deepspeed_json(tmp_path, stage)):
        assert max(errors.values()) <= TOLERANCES[torch.float32], max(errors, key=errors.get)
