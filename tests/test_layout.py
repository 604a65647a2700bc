"""The shape of the repository, read from its syntax trees: imports go down, and some things stay out."""

import ast
import itertools
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PRODUCT = sorted([*(ROOT / "lavie").rglob("*.py"), *(ROOT / "kernels").rglob("*.py"), ROOT / "train.py"])
PRODUCT = [path for path in PRODUCT if not path.is_relative_to(ROOT / "lavie/kernels")]  # the link to kernels/
EXAMPLES = sorted((ROOT / "examples").glob("*.py"))
EVERYTHING = sorted([*PRODUCT, *EXAMPLES, ROOT / "setup.py", *(ROOT / "tests").rglob("*.py")])

FLOORS = (
    ("lavie",),  # the package itself: its version
    ("errors", "caption_limit", "labels", "seeds", "pixels", "console", "environment", "carry", "arithmetic"),
    ("files", "json_text", "tensor_file", "distributed", "launcher", "run_folder", "gpus"),
    ("manifest",),
    ("config",),
    ("testing",),
    ("kernels",),
    ("ops",),
    ("models", "diffusion", "data", "data.media", "data.shards"),
    ("data.order", "data.decoders", "data.cache", "data.prepare"),
    ("data.feed", "data.check"),
    ("cluster",),
    ("training", "inference"),
    ("evaluation",),
    ("pages", "curation"),
    ("train",),
    ("cli", "train.py", "bench"),
)
"""From the ground up. A part imports from lower floors and from itself, not from its neighbours."""
FLOOR = {part: height for height, parts in enumerate(FLOORS) for part in parts}

OFFLINE = ("data.prepare", "data.check")
"""What makes and checks datasets. Nothing that trains or samples imports it."""
MAKES_DATASETS = (*OFFLINE, "curation", "bench")
RENDERED = "lavie.data.prepare.synthetic"
"""The words of the rendered set, by which evaluation judges what was drawn."""

HOMES = {
    "deepspeed": ("lavie/training/",),
    "webdataset": ("lavie/data/", "lavie/bench/"),
    "nvidia": ("lavie/data/",),  # DALI
    "transformers": ("lavie/models/", "lavie/inference/", "lavie/evaluation/", "lavie/curation/", "lavie/bench/"),
    "pyarrow": ("lavie/curation/",),
    "ray": ("lavie/curation/engine/",),
    "starlette": ("lavie/pages/",),
    "uvicorn": ("lavie/pages/",),
    "diffusers": ("lavie/models/", "lavie/inference/", "lavie/evaluation/", "lavie/bench/"),
}
BANNED = ("torchvision", "decord", "xformers", "pickle", "cPickle", "dill", "cloudpickle", "marshal", "shelve")
RUNS_TEXT = ("eval", "exec", "compile", "__import__", "os.system", "os.popen", "yaml.load", "yaml.unsafe_load")
LONGEST_FILE, LONGEST_TRAIN, LONGEST_FIT = 450, 60, 50
LONGEST_UNTESTED = 150
"""Lines of a module from which on it has a test file of its name."""


def relative(path: Path) -> str:
    """A file's path in the repository; kernels/ as it is imported, lavie/kernels/."""
    name = path.relative_to(ROOT).as_posix()
    return f"lavie/{name}" if name.startswith("kernels/") else name


def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(), relative(path))


def imports(name: str, code: ast.AST) -> list[str]:
    """The dotted names that the file `name` imports anywhere, functions included, relative ones resolved."""
    package = name.removesuffix(".py").split("/")[:-1]
    found = []
    for node in ast.walk(code):
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            module = ".".join([*base, *([node.module] if node.module else [])])
            found += [f"{module}.{alias.name}" for alias in node.names]
    return found


def part(dotted: str) -> str | None:
    """The part of the product that a dotted name is in: `lavie.data.feed.rows.Row` is in data.feed."""
    names = dotted.split(".")
    if names[0] != "lavie":
        return None
    if len(names) == 1 or not ((ROOT / "lavie" / names[1]).is_dir() or (ROOT / "lavie" / f"{names[1]}.py").is_file()):
        return "lavie"
    if names[1:3] == ["kernels", "bench"]:
        return "bench"
    if names[1] == "data" and len(names) > 2 and (ROOT / "lavie/data" / names[2]).is_dir():
        return f"data.{names[2]}"
    return names[1]


def part_of_file(name: str) -> str:
    return name if name == "train.py" else part(name.removesuffix(".py").removesuffix("/__init__").replace("/", "."))


def climbs(name: str, code: ast.AST) -> list[str]:
    """What is wrong with the imports of a file of the product."""
    here = part_of_file(name)
    faults = []
    for dotted in imports(name, code):
        target = part(dotted)
        if target in (None, here):
            continue
        if FLOOR[target] >= FLOOR[here]:
            faults.append(f"{name} ({here}, floor {FLOOR[here]}) imports {dotted} ({target}, floor {FLOOR[target]})")
        elif here not in MAKES_DATASETS and here != "cli" and target in OFFLINE and not dotted.startswith(RENDERED):
            faults.append(f"{name} ({here}) imports {dotted}: only {', '.join(MAKES_DATASETS)} and cli may")
    return faults


def strays(name: str, code: ast.AST) -> list[str]:
    """Imports of libraries outside their homes, or of banned ones."""
    faults = []
    for dotted in imports(name, code):
        library = dotted.split(".")[0]
        if library in BANNED:
            faults.append(f"{name} imports {dotted}, which nothing may")
        if library in HOMES and not name.startswith(HOMES[library]):
            faults.append(f"{name} imports {dotted}, which only {', '.join(HOMES[library])} may")
    return faults


def dangers(name: str, code: ast.AST) -> list[str]:
    """Calls that run what they read."""
    faults = []
    for node in ast.walk(code):
        if not isinstance(node, ast.Call):
            continue
        called = ast.unparse(node.func)
        given = {k.arg: k.value for k in node.keywords}
        is_true = {k for k, v in given.items() if not (isinstance(v, ast.Constant) and v.value in (False, None))}
        faults += [
            f"{name}:{node.lineno}: {ast.unparse(node)}"
            for fault in (
                called in RUNS_TEXT,
                called == "torch.load" and "weights_only" not in given,
                "weights_only" in given and ast.unparse(given["weights_only"]) != "True",
                bool(is_true & {"shell", "allow_pickle", "trust_remote_code"}),
            )
            if fault
        ]
    return faults


def untested(lengths: dict[str, int], tests: set[str]) -> list[str]:
    """Return the modules that are too long to have no test file of their name.

    Args:
        lengths: the lines of each module, by its path in the repository.
        tests: the names of the test files, without their folders.
    """
    long = [name for name, lines in lengths.items() if lines > LONGEST_UNTESTED]
    return [name for name in long if f"test_{name.split('/')[-1]}" not in tests]


def borrows(name: str, code: ast.AST) -> list[str]:
    """Return the imports of a file under tests/ that are from a test file: what tests share lives in helper modules."""
    faults = []
    for dotted in imports(name, code):
        names = dotted.split(".")
        if names[0] != "tests" and not names[0].startswith("test_"):
            continue
        if any(n.startswith("test_") for n in names):
            faults.append(f"{name} imports {dotted}, which is in a test file")
    return faults


def test_every_part_has_a_floor():
    parts = {part_of_file(relative(path)) for path in PRODUCT}
    assert parts <= FLOOR.keys(), f"give a floor to {sorted(parts - FLOOR.keys())}"


@pytest.mark.slow
@pytest.mark.parametrize("check", (climbs, strays, dangers))
def test_product(check):
    faults = list(itertools.chain.from_iterable(check(relative(path), tree(path)) for path in PRODUCT))
    assert not faults, "\n".join(faults)


def test_examples_do_nothing_that_the_product_must_not():
    faults = [check(relative(path), tree(path)) for path in EXAMPLES for check in (strays, dangers)]
    assert len(EXAMPLES) == 4 and not list(itertools.chain.from_iterable(faults))


def test_tests_and_kernels_are_no_packages():
    """An importable top-level `kernels` would stand in for the package of that name that transformers looks for."""
    assert not [*(ROOT / "tests").rglob("__init__.py"), *(ROOT / "kernels").rglob("__init__.py")]
    assert (ROOT / "lavie/kernels").is_symlink() and (ROOT / "lavie/kernels").readlink() == Path("../kernels")


def test_files_are_short():
    lengths = {relative(path): len(path.read_text().splitlines()) for path in EVERYTHING}
    assert {name: n for name, n in lengths.items() if n > LONGEST_FILE} == {}
    assert lengths["train.py"] <= LONGEST_TRAIN


def test_long_modules_have_a_test_file_of_their_name():
    lengths = {relative(path): len(path.read_text().splitlines()) for path in PRODUCT if path != ROOT / "train.py"}
    assert untested(lengths, {path.name for path in (ROOT / "tests").rglob("test_*.py")}) == []


def test_nothing_is_imported_from_a_test_file():
    tests = sorted((ROOT / "tests").rglob("*.py"))
    assert [fault for path in tests for fault in borrows(relative(path), tree(path))] == []


def test_the_training_loop_is_short():
    trainer = tree(ROOT / "lavie/training/trainer.py")
    (fit,) = [
        function
        for node in trainer.body
        if isinstance(node, ast.ClassDef) and node.name == "Trainer"
        for function in node.body
        if isinstance(function, ast.FunctionDef) and function.name == "fit"
    ]
    assert fit.end_lineno - fit.body[0].lineno + 1 <= LONGEST_FIT


# --- the checks find what they look for


@pytest.mark.parametrize(
    "name, line",
    (
        ("lavie/ops/x.py", "from ..models.unet import VideoUNet"),
        ("lavie/data/x.py", "from ..diffusion import loss"),
        ("lavie/data/x.py", "from .. import models"),
        ("lavie/models/x.py", "def f():\n    import lavie.training.objective"),
        ("lavie/training/x.py", "from lavie.inference.text_to_video import TextToVideo"),
        ("lavie/seeds.py", "from .config import TrainConfig"),
        ("lavie/data/media/x.py", "from ..shards.index import Index"),
        ("lavie/data/order/x.py", "from ..feed.rows import Row"),
        ("lavie/data/feed/x.py", "from ..prepare.scan import index_shard"),
        ("lavie/training/x.py", "from ..data.prepare.pack import pack"),
        ("lavie/inference/x.py", "def f():\n    from ..data.check.check import check"),
        ("lavie/cluster/x.py", "from ..training.trainer import Trainer"),
        ("lavie/evaluation/sub/x.py", "from ...cli import main"),
        ("lavie/inference/x.py", "from ..cli.main import app"),
        ("lavie/kernels/x.py", "from ..ops.attention import attention"),
        ("lavie/ops/x.py", "from ..kernels.bench import harness"),
    ),
)
def test_climbing_is_seen(name, line):
    assert len(climbs(name, ast.parse(line))) == 1


@pytest.mark.parametrize(
    "name, line",
    (
        ("lavie/training/x.py", "from .. import __version__"),
        ("lavie/training/x.py", "from ..models.unet import VideoUNet\nfrom .step import Step"),
        ("lavie/cli/main.py", "from .data import app"),
        (
            "lavie/evaluation/x.py",
            "from ..data.prepare.synthetic import COLOURS\nfrom ..inference.load import load_stage",
        ),
        ("lavie/data/check/x.py", "from ..prepare.scan import index_shard"),
        ("train.py", "from lavie.inference.generate import generate"),
        ("lavie/ops/x.py", "import torch.nn\nfrom torch import models"),
        ("lavie/ops/x.py", "from ..kernels import temporal_attention"),
        ("lavie/kernels/bench/x.py", "from ...ops.attention import attention\nfrom ..cost import Cost"),
    ),
)
def test_descending_is_allowed(name, line):
    assert climbs(name, ast.parse(line)) == []


@pytest.mark.parametrize(
    "line", ("import torchvision.io", "from pickle import loads", "import deepspeed", "from webdataset import x")
)
def test_strays_are_seen(line):
    assert len(strays("lavie/models/x.py", ast.parse(line))) == 1


@pytest.mark.parametrize(
    "line",
    (
        "torch.load(path)",
        "torch.load(path, weights_only=False)",
        "torch.load(path, weights_only=flag)",
        "eval(text)",
        "subprocess.run(text, shell=True)",
        "os.system(text)",
        "yaml.load(text)",
        "np.load(path, allow_pickle=True)",
        "AutoModel.from_pretrained(name, trust_remote_code=True)",
    ),
)
def test_dangers_are_seen(line):
    assert len(dangers("x.py", ast.parse(line))) == 1


def test_harmless_calls_are_allowed():
    code = "network.eval(); yaml.safe_load(t); torch.load(p, weights_only=True); re.compile(x); run(a, shell=False)"
    assert dangers("x.py", ast.parse(code)) == []


def test_a_long_module_without_a_test_file_is_seen():
    lengths = {"lavie/ops/long.py": 151, "lavie/ops/other.py": 151, "lavie/ops/short.py": 150}
    assert untested(lengths, {"test_other.py"}) == ["lavie/ops/long.py"]


@pytest.mark.parametrize(
    "line",
    (
        "from tests.ops.test_x import helper",
        "from tests.ops import test_x",
        "import tests.ops.test_x",
        "from .test_x import helper",
        "from test_x import helper",
        "def f():\n    from ..models.test_x import helper",
    ),
)
def test_imports_from_a_test_file_are_seen(line):
    assert len(borrows("tests/ops/test_y.py", ast.parse(line))) == 1


def test_imports_from_helpers_are_allowed():
    code = "from tests.ops.helpers import values\nfrom .helpers import values\nfrom lavie.testing import tiny_unet"
    assert borrows("tests/ops/test_y.py", ast.parse(code)) == []
