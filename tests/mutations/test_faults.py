"""The faults that are put in on purpose are the ones that the rules name, in an order that a seed fixes."""

import textwrap

import pytest

from tests.mutations import choice, run, trial
from tests.mutations.faults import Fault, faults_of

CHECK = """
from halves import larger
from lavie.testing import SHARED

def test_larger():
    assert larger(2, 1) and not SHARED.exists()
"""


LONGER = "def f(a, b=3, timeout=3.0, *, patience=2):"


def changes(code: str, path: str = "x.py") -> set[tuple[str, str]]:
    """The faults of a piece of code, as (kind, the changed line with the fault)."""
    return {(fault.kind, fault.now) for fault in faults_of(path, textwrap.dedent(code) + "\n")}


@pytest.mark.parametrize(
    "code, wanted",
    (
        ("y = a - b", {("sign flipped", "y = a + b")}),
        ("y = (a) * b", {("operator", "y = (a) / b")}),
        ("y = a // b", {("rounded up", "y = ((a) + (b) - 1) // (b)")}),
        ("y = a < b", {("comparison", "y = a <= b")}),
        ("y = a not in b", {("condition turned", "y = a in b")}),
        ("y = x[a:]", {("off by one", "y = x[a + 1:]")}),
        ("y = 0.5", {("constant", "y = 1.0")}),
        ("WAIT_SECONDS = 0.5", set()),
        (
            "def f(a, b=2, timeout=3.0, *, patience=2):\n    g(timeout=5)",
            {("off by one", LONGER), ("step left out", "pass")},
        ),
        ("y: int = 3", {("off by one", "y: int = 4")}),
        ("y = {'a': x, 'b': z}", {("key 'a' lost", "y = {'b': z}"), ("key 'b' lost", "y = {'a': x}")}),
        ("y = ('a', 'b')", {("element lost", "y = ('b',)"), ("element lost", "y = ('a',)")}),
        ("y = a if b else c", {("branch", "y = (a)"), ("branch", "y = (c)")}),
        ("y = [a for a in b if a]", {("filter left out", "y = [a for a in b]")}),
        ("y = x.sum(dim=d)", {("option dim ignored", "y = x.sum()"), ("mean for sum", "y = x.mean(dim=d)")}),
        ("if a:\n    raise ValueError('b' + 'c')", {("check removed", "pass")}),
        ("def f(x: Tensor[1] = None) -> Tensor[2]:\n    '''Say 1 + 1.'''\n    log.info('a', x, 1)", set()),
        ("assert a < 1, f'{a + 1}'", set()),
    ),
)
def test_rules(code, wanted):
    assert changes(code) == wanted


def test_conditions_and_calls():
    both = {("and for or", "y = a or b"), ("condition left out", "y = a"), ("condition left out", "y = b")}
    assert changes("y = a and b") == both
    assert changes("g(a, b, k=c)") == {
        ("step left out", "pass"),
        ("arguments swapped", "g(b, a, k=c)"),
        ("argument left out", "g(a, k=c)"),
        ("option k ignored", "g(a, b)"),
    }
    loop = "for i in range(n):\n    if i:\n        continue\n    ä = -i\n"
    assert {fault.now for fault in faults_of("x.py", loop)} == {"for i in range(n - 1):", "pass", "ä = i"}


def test_shell():
    code = 'say "$1 -ge 2"\nif [[ $a -ge 2 || -n $b ]]; then # -ge\n    exit 3\nfi\n#SBATCH --time=24:00:00\n'
    assert changes(code, "x.sh") == {
        ("comparison", "if [[ $a -gt 2 || -n $b ]]; then # -ge"),
        ("off by one", "if [[ $a -ge 3 || -n $b ]]; then # -ge"),
        ("and for or", "if [[ $a -ge 2 && -n $b ]]; then # -ge"),
        ("off by one", "exit 4"),
        ("step left out", "true"),
        ("off by one", "#SBATCH --time=25:00:00"),
    }


def test_every_package_has_its_turn_and_a_number_stays():
    files = ["lavie/seeds.py", "lavie/diffusion/guidance.py", "kernels/cases.py", "launch/rank.sh"]
    order = choice.sequence(1, files)
    assert {fault.path for fault in order[:4]} == set(files)
    assert order == choice.sequence(1, files) and order != choice.sequence(2, files)
    assert sorted(map(repr, order)) == sorted(map(repr, choice.sequence(2, files)))
    assert {name.split("/")[0] for name in choice.mutated_files()} == {"lavie", "kernels", "launch", "train.py"}


def test_the_nearest_tests_come_first():
    tests = choice.Tests()
    assert tests.of("lavie/data/order/mixture.py")[0] == "tests/data/order/test_mixture.py"
    assert "tests/models/test_unet.py" in tests.of("lavie/models/attention.py")
    assert tests.of("lavie/models/frames.py")[0] == "tests/models/test_frames.py"
    assert tests.of("kernels/temporal_attention.py") == ["tests/kernels/test_temporal_attention.py"]
    assert tests.of("launch/env.sh")[0] == "tests/launch/test_scripts.py"


def test_equivalent_faults_still_exist():
    known = run.equivalents()
    found = {
        (fault.path, fault.was, fault.now)
        for path in {path for path, *_ in known}
        for fault in faults_of(path, (choice.ROOT / path).read_text())
    }
    assert not [fault for fault in known if fault not in found], "these lines have changed: argue anew, or remove them"
    assert all(len(reason.split()) >= 4 for reason in known.values())


@pytest.mark.slow
def test_a_fault_is_noticed_or_survives_in_the_copy_alone(tmp_path, monkeypatch):
    """The copy is as it was afterwards, the checkout is never touched, and no file of reference data is in sight."""
    monkeypatch.setattr(trial, "PASSES", [("not long", 1)])
    copy = trial.Copy(tmp_path, libraries=())
    try:
        (copy.project / "halves.py").write_text("def larger(a, b):\n    return a > b\n")
        (copy.project / "tests/test_halves.py").write_text(CHECK)
        text = (copy.project / "halves.py").read_text()
        span = (text.index(">"), text.index(">") + 1)
        weaker, turned = (Fault("halves.py", "comparison", 2, "", "", *span, new) for new in (">=", "<"))
        outcomes = [copy.judge(fault, ["tests/test_halves.py"], 60) for fault in (weaker, turned)]
        assert copy.run(["tests/test_halves.py"], None, 0.0)[0] == "caught (time)"
        assert (copy.project / "halves.py").read_text() == text
    finally:
        copy.close()
    assert [outcome["outcome"] for outcome in outcomes] == ["SURVIVED", "caught"]
    assert outcomes[1]["by"] == ["tests/test_halves.py::test_larger"]
    assert not (choice.ROOT / "halves.py").exists() and (copy.project / "lavie/kernels").is_symlink()


def test_what_is_no_code_is_no_fault():
    assert Fault("x.py", "", 1, "", "", 0, 3, "").applied("def larger(a, b):\n    return a > b\n") is None
