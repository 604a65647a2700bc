"""The definitions of container images: what they copy exists and is enough, and both install the same, as tested."""

import re
import shlex
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
DOCKER = (ROOT / "Dockerfile").read_text()
APPTAINER = (ROOT / "apptainer.def").read_text()
NEEDED = {"constraints.txt", "setup.py", "pyproject.toml", "README.md", "LICENSE", "lavie", "kernels", "configs"}
"""What building the package reads; lavie/kernels and lavie/configs are links to the last two."""


def instructions(text: str) -> list[tuple[str, str]]:
    """Return the instructions of a Dockerfile, each with its arguments, continued lines joined."""
    joined = re.sub(r"\\\n\s*", "", "\n".join(line for line in text.splitlines() if not line.startswith("#")))
    return [tuple(line.split(maxsplit=1)) for line in joined.splitlines() if line.strip()]


def section(name: str) -> list[str]:
    """Return the lines of a section of apptainer.def."""
    [body] = re.findall(rf"^%{name}\n((?:    .*\n)+)", APPTAINER, re.M)
    return [line.strip() for line in body.splitlines()]


def copied() -> set[str]:
    """Return what the Dockerfile copies from the checkout."""
    return {source for name, rest in instructions(DOCKER) if name == "COPY" for source in shlex.split(rest)[:-1]}


def test_every_instruction_is_one_of_dockers():
    known = {"FROM", "RUN", "ARG", "ENV", "WORKDIR", "COPY", "CMD"}
    assert {name for name, _ in instructions(DOCKER)} == known
    assert instructions(DOCKER)[0][0] == "FROM"


def test_what_is_copied_exists_and_is_enough():
    ignored = (ROOT / ".dockerignore").read_text().split()
    assert copied() >= NEEDED and not copied() & set(ignored)
    assert all((ROOT / source).exists() for source in copied())
    assert {line.split()[0] for line in section("files")} == copied()
    assert all(line == f"{line.split()[0]} /opt/lavie/{line.split()[0]}" for line in section("files"))


def test_both_images_are_of_one_base_which_python_of_ours_supports():
    [docker] = re.findall(r"^FROM (\S+)$", DOCKER, re.M)
    assert re.findall(r"^From: (\S+)$", APPTAINER, re.M) == [docker]
    lowest = re.findall(r'python_requires=">=3\.(\d+)"', (ROOT / "setup.py").read_text())
    assert int(re.findall(r"python:3\.(\d+)", docker)[0]) >= int(lowest[0])


def test_versions_are_those_of_the_constraints_alone():
    """No version stands in the images: pip takes each from constraints.txt, torch first and without a build tag."""
    for text in (DOCKER, APPTAINER):
        assert not re.findall(r"[\w.]+==\d", text)
        installs = re.findall(r"pip install .*", text)
        assert len(installs) == 2 and "grep '^torch=='" in installs[0] and "-c constraints.txt" in installs[1]
    pinned = re.findall(r"^torch==.*$", (ROOT / "constraints.txt").read_text(), re.M)
    assert len(pinned) == 1 and "+" not in pinned[0]


def packages(commands: str) -> list[str]:
    """Return what apt-get and pip install, command by command."""
    found = re.findall(r"(?:--no-install-recommends|pip install --no-cache-dir) (.*)", commands)
    return [line.partition("&&")[0].replace("$TORCH_SUFFIX", "").strip() for line in found]


def test_both_install_the_same():
    docker = "\n".join(rest for name, rest in instructions(DOCKER) if name == "RUN")
    assert packages(docker) == packages("\n".join(section("post"))) and len(packages(docker)) == 3
