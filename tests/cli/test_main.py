"""The command lines: help, the dry run, and what follows a mistake: one message, an exit code, no traceback."""

import subprocess
import sys
from pathlib import Path

import pytest

import train
from lavie.cli import main as cli
from lavie.config.load import load_config
from lavie.data.prepare.synthetic import demo_set
from lavie.models.unet import VideoUNet

ROOT = Path(__file__).resolve().parents[2]
SMOKE = "configs/smoke/base.yaml"
ABSENT = "not here, so not checked:"


@pytest.fixture(autouse=True)
def where_only_configs_are(monkeypatch, tmp_path_factory):
    """What `make demo` has left in the checkout changes nothing."""
    folder = tmp_path_factory.mktemp("here")
    (folder / "configs").symlink_to(ROOT / "configs")
    monkeypatch.chdir(folder)
    for name in ("RANK", "LOCAL_RANK", "WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def call(monkeypatch, capsys):
    """Run a command's main with arguments: its message or exit code (None if it returned), and what it printed."""

    def call(main, *arguments):
        monkeypatch.setattr(sys, "argv", ["command", *arguments])
        try:
            main()
            code = None
        except SystemExit as stop:
            code = stop.code
        out, error = capsys.readouterr()
        return error or code, out

    return call


def run(*command) -> subprocess.CompletedProcess:
    return subprocess.run([sys.executable, *command], cwd=ROOT, capture_output=True, text=True, timeout=120)


def test_dry_run_tells_the_sizes(call, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "4")
    code, out = call(train.main, "--dry-run", SMOKE, "gradient_accumulation_steps=2")
    assert code is None
    assert "ranks: 4; global batch: 8 x 2 x 4 = 64 clips" in out
    count = sum(p.numel() for p in VideoUNet(load_config(SMOKE).model).parameters())
    assert f"parameters: {count:,}, of which {count:,} train (all)" in out
    assert '"train_batch_size": 64' in out and '"stage": 3' in out
    assert "gradient_accumulation_steps: 2" in out
    assert "states in all:" in out
    monkeypatch.setenv("WORLD_SIZE", "two")
    code, out = call(train.main, "--dry-run", SMOKE)
    assert out == "" and code.startswith("ConfigError: WORLD_SIZE is 'two'")


def test_dry_run_of_the_full_size_needs_no_weights(call, monkeypatch):
    """The states by hand, per parameter: 12 bytes of optimizer, 4 of average, 2 of weights and 2 of gradients."""
    monkeypatch.setenv("WORLD_SIZE", "8")
    code, out = call(train.main, "--dry-run", "trainable=temporal")
    assert code is None
    total, trained = 909_124_100, 49_603_136  # the released networks' counts, less 16 rotary constants
    assert f"parameters: {total:,}, of which {trained:,} train (temporal)" in out
    assert f"states in all: {(total * 2 + trained * (2 + 12 + 4)) / 8 / 2**30:.2f} GiB per rank" in out
    assert f"a checkpoint: {(total * 6 + trained * 10) / 2**30:.2f} GiB on disk; 5 are kept" in out
    assert out.splitlines()[-1] == f"{ABSENT} pretrained_model_name_or_path weights/stable-diffusion-v1-4"


def test_dry_run_plans_the_data_that_is_there(call, tmp_path):
    data, bucket = tmp_path / "data", "{num_frames: 4, height: 16, width: 16}"
    demo_set(data, clips=8, images=4, size=32, frames=8)
    mixed = f"data.train=[{{path: {data}/train, name: a}}, {{path: {data}/validation, name: b, weight: %s}}]"
    arguments = ["--dry-run", SMOKE, f"data.validation={data}/validation", "max_train_steps=50", "data.frame_stride=1"]
    code, out = call(train.main, *arguments, mixed % 3, f"data.buckets=[{bucket}]")
    assert code is None and "not here" not in out
    rows = {tuple(line.split()[:2]): line for line in out.splitlines()}
    assert "25.0%" in rows["a", "videos"] and "75.0%" in rows["b", "videos"] and "100.0%" in rows["4x16x16", "videos"]
    assert "TFLOP per clip of 4x16x16 with its images" in out
    code, out = call(train.main, *arguments, mixed % "[[50, 0], [60, 1]]")
    assert out == "" and code.startswith("ConfigError: dataset b is taken at none of the 50 steps")
    code, out = call(train.main, *arguments, mixed % 3, "data.num_frames=9")
    assert out == "" and code.startswith(f"DataError: {data}/train: 8 of 8 videos hold no clip of 9 frames")
    code, out = call(train.main, *arguments, f"data.train={data}/train", "data.fps=8", "data.frame_stride=null")
    assert code is None and "left out: nothing" in out


def test_dry_run_says_which_data_is_elsewhere(call, tmp_path):
    demo_set(tmp_path, clips=4, images=4, size=32, frames=12)
    code, out = call(train.main, "--dry-run", SMOKE, "data.train=[nowhere/a, nowhere/b]", "data.validation=nowhere/c")
    assert code is None
    assert out.splitlines()[-2:] == [
        "not here, so not checked: data.train nowhere/a, nowhere/b",
        "not here, so not checked: data.validation nowhere/c",
    ]
    code, out = call(train.main, "--dry-run", SMOKE, f"data.train={tmp_path}/train", "data.validation=nowhere/c")
    assert code is None and "epochs" in out and out.splitlines()[-1].endswith("data.validation nowhere/c")
    code, out = call(train.main, "--dry-run", SMOKE, "data.cuts=1", "data.cache=nowhere/d", "init_weights=nowhere/e")
    assert code is None
    assert out.splitlines()[-2:] == [f"{ABSENT} init_weights nowhere/e", f"{ABSENT} data.cache nowhere/d"]


def test_overrides_may_follow_flags(call):
    code, out = call(train.main, SMOKE, "--dry-run", "seed=77")
    assert code is None and "seed: 77" in out


@pytest.mark.parametrize("flag", ["--deepspeed", "--deepspeed_config"])
def test_launchers_arguments_are_accepted(call, flag):
    code, out = call(train.main, "--local_rank=1", flag, "configs/zero2.json", SMOKE, "--dry-run")
    assert code is None and '"stage": 2' in out


@pytest.mark.parametrize(
    "arguments, words",
    [
        ([SMOKE, "learning_rat=1"], ["unknown key learning_rat", "learning_rate?"]),
        ([SMOKE, "train_batch_size=0"], ["train_batch_size", "got 0"]),
        ([SMOKE, "seed"], ["override 'seed'", "key=value"]),
        ([SMOKE, "validation_prompts=a fox"], ["validation_prompts: wanted a list"]),
        (["nowhere.yaml"], ["nowhere.yaml", "cannot be read"]),
        (["--deepspeed", "nowhere.json", SMOKE], ["--deepspeed nowhere.json"]),
    ],
)
def test_train_answers_a_mistake_in_one_line(call, arguments, words):
    code, out = call(train.main, "--dry-run", *arguments)
    assert out == "" and code.startswith("ConfigError: ") and len(code.splitlines()) == 1
    for word in words:
        assert word in code


def test_train_exits_with_200_and_no_traceback():
    done = run("train.py", SMOKE, "learning_rat=1")
    assert done.returncode == 200 and done.stdout == ""
    assert done.stderr.startswith("ConfigError: ") and "Traceback" not in done.stderr


def test_lavie_exits_with_1_and_no_traceback(tmp_path):
    done = run(
        "-m", "lavie.cli", "sample", "--checkpoint", str(tmp_path), "--out", str(tmp_path / "out"), "--prompt", "a"
    )
    assert done.returncode == 1 and "Traceback" not in done.stderr
    assert done.stderr.startswith("CheckpointError: ") and str(tmp_path) in done.stderr
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["sample", "--checkpoint", "nowhere", "--out", "out", "--prompt", "a"], "CheckpointError: nowhere: "),
        (
            ["sample", "--checkpoint", "a", "--out", "b", "--prompt-file", "nowhere"],
            "ConfigError: --prompt-file nowhere",
        ),
        (["score", "--checkpoint", "nowhere", "--out", "out"], "CheckpointError: nowhere: "),
        (["plot", "nowhere"], "DataError: metrics nowhere/metrics.jsonl: "),
        (["data", "pack", "nowhere", "out"], "DataError: SRC nowhere: "),
        (
            ["data", "pack", "nowhere", "out", "--fps", "8", "--frame-stride", "2"],
            "DataError: --fps 8 and",
        ),
        (["data", "demo", "out", "--size", "33"], "DataError: --size 33: "),
    ],
)
def test_lavie_answers_a_mistake_in_one_line(call, monkeypatch, tmp_path, arguments, message):
    monkeypatch.chdir(tmp_path)
    code, _ = call(cli.main, *arguments)
    assert code.startswith(message) and len(code.splitlines()) == 1
    assert list(tmp_path.iterdir()) == []


def test_help_names_every_command(call):
    code, out = call(cli.main, "--help")
    assert code == 0
    for name in ("sample", "generate", "score", "plot", "export", "import", "data"):
        assert name in out
    code, out = call(cli.main, "data", "--help")
    assert code == 0 and all(name in out for name in ("pack", "index", "check", "plan", "demo"))


def test_train_help_names_its_flags(call):
    code, out = call(train.main, "--help")
    assert code == 0
    for name in ("--deepspeed", "--dry-run", "key=value", "configs/base.yaml"):
        assert name in out


def test_settings_that_cannot_sample_are_refused_before_training(call):
    code, out = call(train.main, SMOKE, "sampling.num_inference_steps=1")
    assert out == "" and code.startswith("ConfigError: num_inference_steps") and "2 to 500" in code


def test_no_precision_needs_no_quotes(call):
    code, out = call(train.main, "--dry-run", SMOKE, "mixed_precision=no")
    assert code is None and "mixed_precision: 'no'" in out


def test_a_place_that_cannot_be_written_leaves_no_traceback(call, tmp_path):
    (tmp_path / "file").write_text("")
    code, out = call(cli.main, "data", "demo", str(tmp_path / "file"))
    assert code == f"NotADirectoryError: [Errno 20] Not a directory: '{tmp_path}/file/train'"
