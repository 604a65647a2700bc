"""The config of a run of adapters: what it takes from its base."""

from lavie.config.load import validate
from lavie.config.lora_run import lora_run
from lavie.config.train import TrainConfig


def test_a_base_that_takes_frames_goes_on_taking_them(tmp_path):
    of_base = TrainConfig(
        output_dir="base",
        model={"in_channels": 7, "out_channels": 3, "cross_attention_dim": 16},
        autoencoder={"type": "patch", "patch_size": 2, "coefficients": 1},
        text_encoder={"type": "hash"},
        condition="frames",
        given={"none": 1.0},
        condition_noise_steps=100,
        max_train_steps=1,
        data={"train": "clips", "fps": 8, "num_frames": 4, "height": 16, "width": 16},
    )
    values = lora_run(tmp_path / "base", tmp_path / "run", of_base=of_base, pretrained=None)
    config = validate(TrainConfig, values, "lora.yaml")
    assert config.trainable == "lora" and config.data.images_alone
    for key in ("model", "condition", "given", "condition_noise_steps"):
        assert getattr(config, key) == getattr(of_base, key), key
