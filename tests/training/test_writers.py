"""What TensorBoard and Weights & Biases are told of a run, read back by TensorBoard's own readers and by a stand-in."""

import io
import json
import sys
import types
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image

from lavie.config.load import dump_yaml, load_config
from lavie.config.train import TrainConfig
from lavie.errors import ConfigError
from lavie.inference.generate import generate
from lavie.inference.settings import BaseSettings
from lavie.training.metrics import Metrics
from lavie.training.writers import require_writers, samples_in
from tests.training.runs import NO_DATA, make_config

PROMPTS = ["a red circle / moving\nright", "a blue square"]
LEVELS = (40, 120, 200)
"""The grey of each frame of a sample."""


def draw(folder: Path, num_frames: int = len(LEVELS)) -> Path:
    """Write samples of PROMPTS into a folder, as validation does: every frame is grey, of a level of its own."""

    def sampler(prompts, *, num_frames, height, width, **rest):
        levels = np.array(LEVELS[:num_frames], np.uint8)
        return np.broadcast_to(levels[None, :, None, None, None], (1, num_frames, height, width, 3)).copy()

    settings = BaseSettings(num_frames=num_frames, height=16, width=24, fps=8)
    generate(sampler, PROMPTS, folder, settings, overwrite=True)
    return folder


def config_of(folder: Path, *report_to: str, **changes) -> TrainConfig:
    (folder / "run").mkdir(exist_ok=True)
    return make_config(folder, folder / "run", report_to=report_to, **changes)


def log_run(config: TrainConfig, start: int, steps: range, folder: Path | None = None) -> None:
    """Log a loss for each step that tells the start, and samples at the last step."""
    metrics = Metrics(config, start, NO_DATA)
    for step in steps:
        metrics.log({"step": step, "time": "now", "loss_t100": step + start / 100})
    if folder:
        metrics.show_samples(steps[-1], folder)
    metrics.close()


def events(config: TrainConfig):
    """Read a run's event files as TensorBoard does."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    accumulator = EventAccumulator(str(Path(config.output_dir) / "tensorboard"), size_guidance={"images": 0})
    return accumulator.Reload()


def test_tensorboard_gets_moving_samples(tmp_path):
    config = config_of(tmp_path, "tensorboard")
    log_run(config, 0, range(0, 3), draw(tmp_path / "drawn"))
    found = events(config)
    tags = ["samples/00000 a red circle / moving right", "samples/00001 a blue square"]
    assert sorted(found.Tags()["images"]) == tags
    [image] = found.Images(tags[0])
    assert (image.step, image.width, image.height) == (2, 192, 128)
    with Image.open(io.BytesIO(image.encoded_image_string)) as gif:
        assert (gif.format, gif.n_frames, gif.size) == ("GIF", 3, (192, 128))
        for index, level in enumerate(LEVELS):
            gif.seek(index)
            assert np.abs(np.asarray(gif.convert("RGB")).astype(int) - level).max() <= 2  # of 256 colours


def test_tensorboard_gets_images(tmp_path):
    config = config_of(tmp_path, "tensorboard")
    log_run(config, 0, range(1, 2), draw(tmp_path / "drawn", num_frames=1))
    [image] = events(config).Images("samples/00001 a blue square")
    assert (image.width, image.height) == (24, 16)
    pixels = np.asarray(Image.open(io.BytesIO(image.encoded_image_string)))
    assert (pixels == LEVELS[0]).all()


def test_tensorboard_shows_what_a_run_was_made_with(tmp_path):
    from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData

    config = config_of(tmp_path, "tensorboard", learning_rate=3e-4)
    log_run(config, 0, range(1, 2))
    found = events(config)
    [text] = found.Tensors("config/text_summary")
    lines = text.tensor_proto.string_val[0].decode().splitlines()
    assert all(line.startswith("    ") for line in lines)  # Markdown's mark of text that stays as it is
    assert yaml.safe_load("\n".join(line[4:] for line in lines)) == yaml.safe_load(dump_yaml(config))

    contents = found.summary_metadata["_hparams_/session_start_info"].plugin_data.content
    values = HParamsPluginData.FromString(contents).session_start_info.hparams
    assert values["learning_rate"].number_value == 3e-4
    assert values["stage"].string_value == "base"


def test_tensorboard_hides_what_a_resumed_run_writes_again(tmp_path):
    config = config_of(tmp_path, "tensorboard")
    log_run(config, 0, range(0, 5))
    log_run(config, 2, range(3, 5))
    assert [(e.step, round(e.value, 2)) for e in events(config).Scalars("loss_t100")] == [
        *((0, 0), (1, 1), (2, 2)),
        *((3, 3.02), (4, 4.02)),
    ]


def test_a_run_that_starts_anew_writes_its_step_0_once(tmp_path):
    """`resume_from_checkpoint: auto` after a run that was lost before its first checkpoint."""
    config = config_of(tmp_path, "tensorboard")
    log_run(config, 0, range(0, 3))
    log_run(config, 0, range(0, 2))
    assert [e.step for e in events(config).Scalars("loss_t100")] == [0, 1]
    lines = (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in lines] == [0, 1]


def test_an_empty_report_to_leaves_metrics_and_events_alone(tmp_path):
    config = config_of(tmp_path)
    log_run(config, 0, range(1, 3), draw(tmp_path / "drawn"))
    assert {path.name for path in (tmp_path / "run").iterdir()} == {"metrics.jsonl", "events.jsonl"}


def test_a_writer_that_fails_is_told_no_more_and_the_run_goes_on(tmp_path, monkeypatch, caplog):
    def full(*_):
        raise OSError(28, "No space left on device")

    config = config_of(tmp_path, "tensorboard")
    monkeypatch.setattr("lavie.training.writers.TensorBoard.scalars", full)
    log_run(config, 0, range(1, 4), draw(tmp_path / "drawn"))
    lines = (tmp_path / "run/metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in lines] == [1, 2, 3]
    assert caplog.text.count("TensorBoard has failed, and is told no more until the next start") == 1


@pytest.mark.parametrize(
    "override, names",
    (
        ("report_to=wandb", ("wandb",)),
        ("report_to=[wandb, tensorboard]", ("wandb", "tensorboard")),
        ("report_to=[]", ()),
    ),
)
def test_report_to_takes_a_name_or_a_list(override, names):
    assert load_config("configs/smoke/base.yaml", [override]).report_to == names
    with pytest.raises(ConfigError, match=r"report_to.*tensorboard.*wandb"):
        load_config("configs/smoke/base.yaml", ["report_to=mlflow"])


def test_samples_that_nothing_lists_are_none(tmp_path):
    (tmp_path / "00000.gif").touch()
    assert samples_in(tmp_path) == []


class FakeRun:
    """A run of the stand-in for wandb, which keeps what it is called with."""

    def __init__(self, options):
        self.options, self.logged, self.finished = options, [], 0
        self.id = options["id"] or "fresh-id"

    def log(self, values, step):
        self.logged.append((step, values))

    def finish(self):
        self.finished += 1


@pytest.fixture
def wandb(monkeypatch):
    """A stand-in for the package wandb that keeps its runs, in `runs`."""
    module = types.ModuleType("wandb")
    module.runs, module.Error = [], type("Error", (Exception,), {})
    module.Video = lambda path, caption, format: ("video", Path(path).name, caption, format)
    module.Image = lambda path, caption: ("image", Path(path).name, caption)
    module.init = lambda **options: module.runs.append(FakeRun(options)) or module.runs[-1]
    monkeypatch.setitem(sys.modules, "wandb", module)
    monkeypatch.delenv("WANDB_PROJECT", raising=False)
    return module


def test_wandb_gets_config_losses_and_videos(tmp_path, wandb):
    config = config_of(tmp_path, "wandb", "wandb")
    log_run(config, 0, range(0, 2), draw(tmp_path / "drawn"))
    [run] = wandb.runs
    assert (run.options["project"], run.options["name"], run.options["id"]) == ("lavie", "run", None)
    assert run.options["config"] == config.model_dump(mode="json")
    assert run.options["dir"] == str(tmp_path / "run")
    assert run.logged == [
        (0, {"loss_t100": 0.0}),
        (1, {"loss_t100": 1.0}),
        (
            1,
            {
                "samples/00000": ("video", "00000.mp4", PROMPTS[0], "mp4"),
                "samples/00001": ("video", "00001.mp4", PROMPTS[1], "mp4"),
            },
        ),
    ]
    assert run.finished == 1
    assert not (tmp_path / "run" / "tensorboard").exists()


def test_wandb_gets_images(tmp_path, wandb):
    log_run(config_of(tmp_path, "wandb"), 0, range(1, 2), draw(tmp_path / "drawn", num_frames=1))
    assert wandb.runs[0].logged[-1][1]["samples/00001"] == ("image", "00001.png", PROMPTS[1])


def test_a_resumed_run_goes_on_in_the_same_run_of_wandb_and_a_new_one_does_not(tmp_path, wandb, monkeypatch):
    config = config_of(tmp_path, "wandb")
    monkeypatch.setenv("WANDB_PROJECT", "mine")
    for start in (0, 1, 0):
        log_run(config, start, range(start + 1, start + 2))
    assert [run.options["id"] for run in wandb.runs] == [None, "fresh-id", None]
    assert [run.options["resume"] for run in wandb.runs] == ["allow"] * 3
    assert [run.options["allow_val_change"] for run in wandb.runs] == [False, True, False]
    assert {run.options["project"] for run in wandb.runs} == {"mine"}


def test_wandb_that_cannot_begin_says_what_to_do(tmp_path, wandb, monkeypatch):
    def refuse(**options):
        raise wandb.Error("no API key configured")

    monkeypatch.setattr(wandb, "init", refuse)
    with pytest.raises(ConfigError, match=r"no API key configured.*wandb login.*WANDB_MODE=offline"):
        Metrics(config_of(tmp_path, "wandb"), 0, NO_DATA)


@pytest.mark.parametrize(
    "name, module, install",
    (("wandb", "wandb", r"lavie\[wandb\]"), ("tensorboard", "torch.utils.tensorboard", "tensorboard")),
)
def test_a_missing_package_is_an_error_before_anything_starts(tmp_path, monkeypatch, name, module, install):
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(ConfigError, match=rf"report_to names {name}, .*pip install '?{install}.*report_to=\[\]"):
        require_writers(config_of(tmp_path, name))
    require_writers(config_of(tmp_path))


def test_a_folder_of_the_package_s_name_is_no_package(tmp_path, monkeypatch):
    """wandb itself leaves a folder wandb/ where it is called."""
    monkeypatch.setitem(sys.modules, "wandb", types.ModuleType("wandb"))
    with pytest.raises(ConfigError, match="report_to names wandb"):
        require_writers(config_of(tmp_path, "wandb"))
