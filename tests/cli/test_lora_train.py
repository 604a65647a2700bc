"""`lavie lora train` and its companions, from rendered images to clips without and with adapters."""

import json
import shutil
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file

from lavie.cli.lora_train import _compare_trained
from lavie.config.load import dump_yaml, load_config
from lavie.config.lora_run import Origin, require_images, require_same_origin, write_origin
from lavie.data.prepare.synthetic import COLOURS
from lavie.data.shards.index import load_index
from lavie.errors import CheckpointError, ConfigError, DataError
from lavie.testing import run_distributed
from tests.cli.commands import run_lavie
from tests.training.adapted import make_base, train_adapters
from tests.training.fixtures import rendered
from tests.training.runs import deepspeed_json, make_config

__all__ = ["rendered"]


@pytest.fixture(scope="module")
def base(rendered, tmp_path_factory) -> Path:
    """An exported folder of a small network of the rendered set."""
    folder = tmp_path_factory.mktemp("base")
    config = make_config(
        rendered,
        folder,
        data={"num_frames": 2, "height": 16, "width": 16},
        sampling={"num_inference_steps": 2},
        validation_prompts=("a red circle moving left",),
    )
    (folder / "config.yaml").write_text(dump_yaml(config))
    (folder / "export.json").write_text("{}")
    make_base(folder / "unet", config)
    return folder


@pytest.fixture(scope="module")
def images(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("images") / "orange"
    run_lavie("lora", "word", folder, "--size", 16)
    return folder


@pytest.fixture(scope="module")
def run(base, images, tmp_path_factory) -> Path:
    """A run of one step, prepared by the command and trained by this process's ranks."""
    out = tmp_path_factory.mktemp("lora") / "run"
    words = ["max_train_steps=1", "lora.rank=2", "data.num_workers=0", "validate_at_start=false", "report_to=[]"]
    prior = ["--prior", "a red circle", "--prior", "a blue square", "--prior-samples", 3]
    told = run_lavie("lora", "train", images, "--base", base, "--out", out, "--prepare", *prior, *words)
    assert f"lavie train {out / 'lora.yaml'} --deepspeed zero2.json" in told
    config = load_config(out / "lora.yaml", ["validation_prompts=[]"])
    run_distributed(train_adapters, 1, config, deepspeed_json(out, 2))
    return out


def test_the_run_has_the_network_of_its_base_and_both_datasets(run, base):
    config, of_base = load_config(run / "lora.yaml"), load_config(base / "config.yaml")
    assert config.model == of_base.model and config.sampling == of_base.sampling
    assert (config.trainable, config.lora.rank, config.init_weights) == ("lora", 2, str(base))
    assert config.data.images_alone and config.data.size == of_base.data.size
    subject, prior = (load_index([str(path)]) for path in config.data.train_paths)
    assert (len(subject.images), len(prior.images)) == (8, 3)
    assert {sample.caption for sample in prior} == {"a red circle", "a blue square"}
    assert config.validation_prompts[-2:] == ("a red circle", "a blue square")


def test_compare_draws_without_and_with_adapters(run, tmp_path):
    told = run_lavie("lora", "compare", run, "--out", tmp_path, "--prompt", "a orange circle moving up")
    numbers = json.loads((tmp_path / "compare.json").read_text())
    assert "motion with adapters by motion without" in told and (tmp_path / "compare.png").is_file()
    assert numbers["prompts"][0]["motion_without"] > 0


def test_score_judges_the_new_word_and_the_old_ones(run, tmp_path):
    run_lavie("lora", "score", run, "--out", tmp_path, "--clips", 1)
    numbers = json.loads((tmp_path / "compare.json").read_text())
    assert numbers["word"] == "orange" and "orange" not in COLOURS
    assert set(numbers["new"]) == set(numbers["old"])


def test_what_cannot_train_is_refused(base, images, tmp_path, run):
    few = tmp_path / "few"
    run_lavie("lora", "word", few, "--size", 16, "--images", 3)
    with pytest.raises(DataError, match="has 3 captioned images or clips that can train: wanted 8"):
        run_lavie("lora", "train", few, "--base", base, "--out", tmp_path / "a")
    (tmp_path / "none").mkdir()
    with pytest.raises(DataError, match=f"nothing to pack: {tmp_path / 'none'} is empty"):
        train(tmp_path / "none", base, tmp_path / "a")
    with pytest.raises(ConfigError, match="num_inference_steps: EulerDiscreteScheduler cannot take 1 steps"):
        train(images, base, tmp_path / "a", "sampling.num_inference_steps=1", "sampling.scheduler=euler")
    (tmp_path / "zero.json").write_text('{"zero_optimization": {"stage": 7}}')
    with pytest.raises(ConfigError):
        run_lavie(
            "lora", "train", images, "--base", base, "--out", tmp_path / "a", "--deepspeed", tmp_path / "zero.json"
        )
    assert not (tmp_path / "a").exists()
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/notes.txt").touch()
    with pytest.raises(DataError, match="has 3 captioned images"):
        train(few, base, tmp_path / "mine")
    assert [path.name for path in (tmp_path / "mine").iterdir()] == ["notes.txt"]
    with pytest.raises(ConfigError, match=r"lora\.rank is 99"):
        run_lavie("lora", "train", images, "--base", base, "--out", tmp_path / "b", "lora.rank=99")
    with pytest.raises(ConfigError, match="is a run of adapters itself"):
        run_lavie("lora", "train", images, "--base", run, "--out", tmp_path / "c")
    with pytest.raises(ConfigError, match="--word red: wanted a colour that the rendered set lacks"):
        run_lavie("lora", "word", tmp_path / "d", "--word", "red")
    with pytest.raises(ConfigError, match="holds no adapters"):
        run_lavie("lora", "compare", base, "--out", tmp_path / "e")


def train(folder: Path, base: Path, out: Path, *words: object) -> str:
    return run_lavie("lora", "train", folder, "--base", base, "--out", out, "--prepare", *words)


@pytest.fixture(scope="module")
def prepared(base, images, tmp_path_factory) -> tuple[Path, Path]:
    """A folder of images of its own, and a run that was prepared of it."""
    folder = tmp_path_factory.mktemp("prepared")
    shutil.copytree(images, folder / "own")
    train(folder / "own", base, folder / "run")
    return folder / "own", folder / "run"


def test_data_of_another_origin_are_refused(base, images, prepared, tmp_path):
    own, out = prepared
    train(own, base, out, "seed=3")  # which moves no data where none were drawn
    moved = tmp_path / "moved"
    shutil.copytree(base, moved)
    for folder, network, words, flag in (
        (images, base, (), "FOLDER"),
        (own, moved, (), "--base"),
        (own, base, ("--prior", "a red circle"), "--prior"),
    ):
        before = (out / "lora.yaml").read_text()
        with pytest.raises(ConfigError, match=f"has data of {flag} .*: give another --out"):
            train(folder, network, out, *words)
        assert (out / "lora.yaml").read_text() == before


def test_another_draw_of_the_prior_is_refused(run, base, images):
    prior = ("--prior", "a red circle", "--prior", "a blue square")
    with pytest.raises(ConfigError, match=r"has data of --prior-samples 3, this call has --prior-samples 4"):
        train(images, base, run, *prior, "--prior-samples", 4)
    with pytest.raises(ConfigError, match=r"has data of seed 0, this call has seed 1"):
        train(images, base, run, *prior, "--prior-samples", 3, "seed=1")
    with pytest.raises(ConfigError, match=r"has data of --prior 'a red circle', 'a blue square', .* --prior none"):
        train(images, base, run)


def test_a_call_that_packed_nothing_holds_no_folder_fast(tmp_path):
    first, second = Origin("a", "base", None, None, None), Origin("b", "base", None, None, None)
    write_origin(tmp_path, first)
    require_same_origin(tmp_path, second)
    (tmp_path / "data" / "train").mkdir(parents=True)
    (tmp_path / "data" / "train" / "000000.tar").touch()
    require_same_origin(tmp_path, first)
    with pytest.raises(ConfigError, match="has data of FOLDER a, this call has FOLDER b"):
        require_same_origin(tmp_path, second)


def test_a_run_in_its_images_or_its_base_is_refused(base, images, tmp_path):
    for folder, out, words in (
        (images, images, "is FOLDER"),
        (images, images / "run", "is FOLDER .*, or in it"),
        (images, images.parent, "FOLDER .* is in --out"),
        (images, base, "is --base"),
        (images, base / "run", "is --base .*, or in it"),
    ):
        before = sorted(out.rglob("*")) if out.exists() else None
        with pytest.raises(ConfigError, match=words):
            train(folder, base, out)
        assert (sorted(out.rglob("*")) if out.exists() else None) == before
    with pytest.raises(DataError, match=r"FOLDER .*: no such file or folder"):
        train(tmp_path / "none", base, tmp_path / "run")


@pytest.mark.parametrize(
    "word, instead",
    (
        ("output_dir=x", "give --out"),
        ("init_weights=x", "give --base"),
        ("trainable=all", "trains adapters alone"),
        ("resume_from_checkpoint=latest", "in --out"),
        ("data.train=[x]", "give FOLDER"),
        ("data={train: [x]}", "give FOLDER"),
        ("data.images_alone=false", "FOLDER holds"),
    ),
)
def test_keys_that_the_command_sets_are_refused(base, images, tmp_path, word, instead):
    with pytest.raises(ConfigError, match=instead):
        train(images, base, tmp_path / "run", word)
    assert not (tmp_path / "run").exists()


def test_images_in_rows_of_a_folder_of_clips_are_refused():
    require_images(["data.num_images=0", "seed=1"], "clips")
    with pytest.raises(ConfigError, match=r"data\.num_images is 2, and FOLDER clips holds clips alone"):
        require_images(["data={num_images: 2}"], "clips")


def test_a_config_that_cannot_go_on_replaces_none(run, base, images):
    before = (run / "lora.yaml").read_text()
    prior = ("--prior", "a red circle", "--prior", "a blue square", "--prior-samples", 3)
    with pytest.raises(CheckpointError, match=r"checkpoint-1: lora.rank was 2, this run's config says 4"):
        train(images, base, run, *prior)
    with pytest.raises(CheckpointError, match=r"set mixed_precision to"):
        train(images, base, run, *prior, "lora.rank=2", "mixed_precision=fp16")
    assert (run / "lora.yaml").read_text() == before


def test_a_run_that_cannot_train_leaves_no_config(run, base, images, tmp_path, monkeypatch):
    """Each is refused before anything is written or packed."""
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    prior = ("--prior", "a red circle", "--prior", "a blue square", "--prior-samples", 3, "lora.rank=2")
    weights = next((base / "unet").glob("*.safetensors"))
    kept = weights.read_bytes()
    save_file({name: value + 1 for name, value in load_file(weights).items()}, weights)
    try:
        with pytest.raises(CheckpointError, match="holds adapters of other weights than those in"):
            train(images, base, run, *prior)
    finally:
        weights.write_bytes(kept)
    manifest = json.loads((run / "checkpoint-1/checkpoint.json").read_text())
    monkeypatch.setattr("lavie.manifest.read_manifest", lambda _: manifest | {"optimizer": "adamw_8bit"})
    words = ("lora", "train", images, "--base", base, "--out", run, "--deepspeed", deepspeed_json(tmp_path, 1), *prior)
    with pytest.raises(CheckpointError, match="holds moments in 8 bits, in blocks of the 1 ranks under ZeRO stage 2"):
        run_lavie(*words)
    assert {path: path.read_bytes() for path in run.rglob("*") if path.is_file()} == before
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    with pytest.raises(ConfigError, match="the package bitsandbytes is not installed"):
        train(images, base, tmp_path / "new", "optimizer=adamw_8bit")
    assert not (tmp_path / "new").exists()


def test_earlier_pictures_of_the_run_stay_if_nothing_was_trained(tmp_path, monkeypatch, capsys):
    drawn = []
    monkeypatch.setattr("lavie.cli.lora_train.compare_command", lambda *given, **_: drawn.append(given))
    _compare_trained(tmp_path, trained=False)
    (tmp_path / "compare.json").write_text("mine")
    _compare_trained(tmp_path, trained=False)
    assert "compare.json stays as it was" in capsys.readouterr().out and len(drawn) == 1
    _compare_trained(tmp_path, trained=True)
    assert "compare.json in" in capsys.readouterr().err and len(drawn) == 2


def test_changed_images_are_told(base, prepared):
    own, out = prepared
    (own / "00002.txt").write_text("a violet circle\n")
    told = train(own, base, out)
    assert "1 of " in told and "00002" in told and "caption changed" in told and "keeps them as they were" in told


@pytest.mark.parametrize("command", ("compare", "score"))
@pytest.mark.parametrize("name", ("compare.json", "compare.png"))
def test_earlier_results_stay(run, tmp_path, command, name):
    (tmp_path / name).write_text("mine")
    with pytest.raises(ConfigError, match=f"{name} exists: give another place, or --overwrite"):
        run_lavie("lora", command, run, "--out", tmp_path)
    assert (tmp_path / name).read_text() == "mine"


def test_fewer_images_leave_none_of_before(tmp_path):
    run_lavie("lora", "word", tmp_path, "--size", 16, "--images", 5)
    own = {"00004.txt": "a orange dog\n", "cat.txt": "a cat\n", "cat.png": "", "00077.png": ""}
    for name, text in own.items():
        (tmp_path / name).write_text(text)
    run_lavie("lora", "word", tmp_path, "--size", 16, "--images", 2, "--overwrite")
    rendered_now = {f"0000{n}.{kind}" for n in range(2) for kind in ("png", "txt")}
    assert {path.name for path in tmp_path.iterdir()} == rendered_now | set(own) | {"00004.png"}


def test_a_base_that_is_none_is_named(images, tmp_path):
    folder, file = tmp_path / "folder", tmp_path / "notes.pt"
    folder.mkdir()
    file.write_text("no weights")
    for base, words in ((folder, "holds no network and no finished checkpoint"), (file, "holds no weights")):
        with pytest.raises(CheckpointError, match=f"--base {base} {words}: wanted a run's output_dir"):
            train(images, base, tmp_path / "run")
    assert not (tmp_path / "run").exists()
