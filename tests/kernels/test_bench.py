"""The benchmarks run but for the timing, and every module is imported, all without the developers' packages."""

import os
import re
import runpy
import subprocess
import sys
from importlib import metadata
from pathlib import Path
from unittest import mock

import pytest
from packaging.requirements import Requirement

pytest.importorskip("triton")

from lavie.kernels.bench import harness
from tests.kernels.bench.results import row, write_results

ROOT = Path(__file__).resolve().parents[2]
OPS = ("temporal_attention", "group_norm_silu", "pseudo3d_conv", "geglu", "layer_norm", "unet")

HIDE = """
from importlib.machinery import PathFinder

find = PathFinder.find_spec
PathFinder.find_spec = classmethod(
    lambda _, name, *args: None if name.partition(".")[0] in {hidden} else find(name, *args)
)
"""


def developers_modules() -> set[str]:
    """What `make install` leaves out of what `.[dev]` has, as it is imported."""
    with mock.patch("setuptools.setup") as setup:
        runpy.run_path(str(ROOT / "setup.py"))
    required, found = list(setup.call_args.kwargs["install_requires"]), {"triton"}  # which CUDA builds of torch bring
    while required:
        requirement = Requirement(required.pop())
        name = canonical(requirement.name)
        if name in found or (requirement.marker and not requirement.marker.evaluate({"extra": ""})):
            continue
        found.add(name)
        try:
            required += metadata.requires(name) or []
        except metadata.PackageNotFoundError:
            continue
    extra = {canonical(Requirement(line).name) for line in setup.call_args.kwargs["extras_require"]["dev"]} - found
    return {
        module for module, owners in metadata.packages_distributions().items() if {*map(canonical, owners)} <= extra
    }


def canonical(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The environment of a process that finds none of the developers' packages, nor do its children."""
    hidden = developers_modules()
    assert {"pytest", "hypothesis", "mypy", "xdist", "rotary_embedding_torch"} <= hidden and "torch" not in hidden
    folder = tmp_path_factory.mktemp("hidden")
    (folder / "sitecustomize.py").write_text(HIDE.format(hidden=sorted(hidden)))
    return os.environ | {"PYTHONPATH": f"{folder}:{ROOT}", "TRITON_INTERPRET": "1"}


def run(installed: dict[str, str], *arguments: str) -> str:
    done = subprocess.run([sys.executable, *arguments], cwd=ROOT, env=installed, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.slow
@pytest.mark.parametrize("op", (*OPS[:-1], pytest.param("unet", marks=pytest.mark.long)))
def test_dry_run(installed, op):
    printed = run(installed, "-m", f"lavie.kernels.bench.{op}", "--dry-run")
    assert "triton" in printed and "FAILED" not in printed


EVERYTHING = """
import importlib, sys
from pathlib import Path
import torch
from lavie.bench import cascade
from lavie.kernels.bench.report import renew

for name in {modules}:
    importlib.import_module(name)
assert not [name for name in ("pytest", "hypothesis") if name in sys.modules]
renew(*map(Path, sys.argv[1:]))
# Networks on the meta device, their sizes and their memory; no stage is sampled.
assert list(cascade.bench([], (2, 64, 64, 2), None, torch.device("cpu"), {{}})) == []
"""


@pytest.mark.slow
def test_every_module_is_imported_and_results_are_reported(installed, tmp_path):
    files = [*(ROOT / "lavie").rglob("*.py"), *(ROOT / "kernels").rglob("*.py"), ROOT / "train.py"]
    # Commands import the servers behind a check for the extra `pages`.
    served = [path for path in (ROOT / "lavie/pages").rglob("*.py") if "\nfrom starlette" in path.read_text()]
    files = [path for path in files if path not in served]
    names = [path.relative_to(ROOT).with_suffix("").as_posix().replace("/", ".") for path in files]
    names = [f"lavie.{name}" if name.startswith("kernels.") else name.removesuffix(".__init__") for name in names]
    results, readme = write_results(tmp_path, [row("triton", part, 1, 1) for part in harness.PARTS])
    run(installed, "-c", EVERYTHING.format(modules=names), str(readme), str(results), str(tmp_path / "results.png"))
    assert "### GPU X" in readme.read_text()


@pytest.mark.slow
def test_the_whole_target_runs(installed):
    """Every benchmark with its times and graphs, the cascade, and the report: half a minute of a core."""
    environment = {name: value for name, value in installed.items() if name != "TRITON_INTERPRET"}
    printed = run(environment, "-W", "ignore", "-m", "tests.kernels.bench.whole")
    ran = re.findall(r"^python -m lavie\.(\S+)(?: --stage (\w+))? --dry-run", printed, re.M)
    stages = [("bench.cascade", stage) for stage in ("base", "interpolation", "vsr")]
    assert ran == [*((f"kernels.bench.{op}", "") for op in OPS), *stages]
    assert "FAILED" not in printed and "not captured" not in printed
    rows = re.findall(r"^\| (\w+) \| .* \| [\d.]+ ms, [^|]*\|$", printed, re.M)
    assert {*rows} == {*OPS}
