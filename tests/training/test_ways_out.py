"""What makes a run fit is what it needs, and each of it is a run that can be started."""

import pytest

from lavie.config.load import load_config
from lavie.config.train import TrainConfig
from lavie.models.live_bytes import GIB
from lavie.training.deepspeed import resolve_json
from lavie.training.fit import CARDS, USABLE
from lavie.training.memory import memory_of
from lavie.training.ways_out import changed_config, changes_of, ways_out
from tests.training.runs import deepspeed_json, make_config


@pytest.mark.slow
def test_ways_out_fit_and_none_is_needless():
    config = load_config("configs/base.yaml", [])
    settings = resolve_json("configs/zero2.json", config, 1)
    assert memory_of(config, settings, 1).peak > CARDS[0] * USABLE * GIB
    changes = ways_out(config, settings, 1, CARDS[0] * USABLE * GIB)
    assert changes
    for without in [None, *changes]:
        chosen = [change for change in changes if change is not without]
        fits = memory_of(changed_config(config, chosen), settings, 1).peak <= CARDS[0] * USABLE * GIB
        assert fits == (without is None)


def test_the_ways_out_are_the_keys_that_lessen_memory(tmp_path):
    """Each of them makes a config that loads, and takes no more than the run as it is."""
    data = {"num_frames": 8, "height": 48, "width": 80, "num_images": 2}
    config = make_config(tmp_path, tmp_path / "run", validation_prompts=["a"], data=data)
    settings = resolve_json(deepspeed_json(tmp_path, 2), config, 1)
    ways, peak = list(changes_of(config, settings)), memory_of(config, settings, 1).peak
    assert {name for name, _, _ in ways} >= {
        "use_ema=false",
        "data.cache=FOLDER data.cuts=1",
        "data.num_frames=4",
        "data.height=24 data.width=40",
        "data.validation=[] validation_prompts=[]",
    }
    for way in ways:
        changed = changed_config(config, [way])
        assert changed != config
        TrainConfig.model_validate(changed.model_dump())
        assert memory_of(changed, settings, 1).peak <= peak
    assert not {name for name, _, _ in changes_of(changed_config(config, ways), settings)} & {
        name for name, _, _ in ways if not name.startswith(("data.num_frames", "data.height"))
    }
