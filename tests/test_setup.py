"""The packaging, as pip sees it."""

import json
import os
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

import lavie

ROOT = Path(__file__).resolve().parents[1]


def test_the_package_has_one_version():
    """setup.py does not import lavie, whose dependencies pip installs later."""
    printed = subprocess.run(
        [sys.executable, "setup.py", "--version"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout
    assert printed.splitlines()[-1] == lavie.__version__
    assert lavie.__version__ not in (ROOT / "setup.py").read_text()


@pytest.fixture(scope="module")
def installed(tmp_path_factory) -> Path:
    """Return a folder with the wheel's files, as pip lays them; nothing of the checkout is in it or on the path."""
    folder = tmp_path_factory.mktemp("wheel")
    source = folder / "source"  # setuptools leaves a build/ where it works
    source.mkdir()
    for name in ("lavie", "kernels", "configs"):
        shutil.copytree(ROOT / name, source / name, symlinks=True, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("setup.py", "pyproject.toml", "README.md", "LICENSE", "MANIFEST.in", "CHANGELOG.md", "train.py"):
        shutil.copy(ROOT / name, source)
    pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]
    built = [*pip, "wheel", "--no-deps", "--no-build-isolation", "--no-index", "-w", str(folder), str(source)]
    subprocess.run(built, check=True, capture_output=True)
    [wheel] = folder.glob("*.whl")
    target = [*pip, "install", "--no-deps", "--no-index", "--target", str(folder / "site"), str(wheel)]
    subprocess.run(target, check=True, capture_output=True)
    return folder / "site"


def lavie_of(site: Path, cwd: Path, *words: str) -> subprocess.CompletedProcess:
    """Run the installed `lavie` in a folder, and return how it ended."""
    env = os.environ | {"PYTHONPATH": str(site), "DS_ACCELERATOR": "cpu"}
    command = [sys.executable, "-c", "from lavie.cli.main import main; main()", *words]
    return subprocess.run(command, cwd=cwd, env=env, capture_output=True, text=True)


@pytest.mark.slow
def test_the_wheel_holds_every_module_and_config(installed):
    files = {str(path.relative_to(installed)) for path in installed.rglob("*") if path.is_file()}
    for folder, link in (("lavie", "lavie"), ("kernels", "lavie/kernels"), ("configs", "lavie/configs")):
        for pattern in ("*.py", "*.yaml", "*.json", "*.html", "*.css", "*.js"):
            for path in (ROOT / folder).rglob(pattern):
                assert f"{link}/{path.relative_to(ROOT / folder)}" in files
    assert "lavie/py.typed" in files


@pytest.mark.long
def test_an_installed_package_trains_in_an_empty_folder(installed, tmp_path):
    own = [sys.executable, "-c", "import lavie; print(lavie.__file__)"]
    env = os.environ | {"PYTHONPATH": str(installed)}
    found = subprocess.run(own, cwd=tmp_path, env=env, capture_output=True, text=True, check=True).stdout
    assert found.strip() == str(installed / "lavie/__init__.py")

    where = lavie_of(installed, tmp_path, "config", "copy", "smoke/base.yaml", "zero3.json", "--out", "mine")
    assert where.returncode == 0, where.stderr
    assert (tmp_path / "mine/smoke/base.yaml").read_bytes() == (ROOT / "configs/smoke/base.yaml").read_bytes()

    made = lavie_of(
        installed, tmp_path, "data", "demo", "runs/demo/data", "--clips", "8", "--images", "4", "--size", "32"
    )
    assert made.returncode == 0, made.stderr
    changes = ["--max_train_steps", "2", "data.num_workers=0", "validation_prompts=[]", "validation_batches=1"]
    trained = lavie_of(installed, tmp_path, "train", "smoke/base.yaml", "--deepspeed", "zero3.json", *changes)
    assert trained.returncode == 0, trained.stderr
    lines = (tmp_path / "runs/demo/base/metrics.jsonl").read_text().splitlines()
    assert {json.loads(line)["step"] for line in lines} == {1, 2}
    assert (tmp_path / "runs/demo/base/checkpoint-2/checkpoint.json").is_file()


@pytest.mark.slow
def test_a_source_archive_holds_what_building_needs(tmp_path):
    """A wheel can be built of the archive alone."""
    command = [sys.executable, "setup.py", "-q", "sdist", "--dist-dir", str(tmp_path), "egg_info", "-e", str(tmp_path)]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    [archive] = tmp_path.glob("*.tar.gz")
    with tarfile.open(archive) as tar:
        names = {name.partition("/")[2] for name in tar.getnames()}
    for name in ("setup.py", "pyproject.toml", "README.md", "LICENSE", "constraints.txt", "train.py", "CHANGELOG.md"):
        assert name in names
    assert {"lavie/configs/smoke/base.yaml", "lavie/kernels/temporal_attention.py", "lavie/py.typed"} <= names
