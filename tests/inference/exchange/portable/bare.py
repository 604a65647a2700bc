"""A Python that has torch, diffusers and transformers, what they need, and nothing else: not this project."""

import os
import re
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

NETWORK_OFF = """
import socket
def refused(*arguments, **options):
    raise OSError("the network is off")
socket.socket.connect = socket.create_connection = socket.getaddrinfo = refused
"""


def closure(*names: str) -> list[str]:
    """Return the names of installed packages with all that they require, without extras."""
    found, waiting = {}, list(names)
    while waiting:
        name = waiting.pop()
        if name in found:
            continue
        try:
            found[name] = distribution(name)
        except PackageNotFoundError:  # for another platform
            continue
        for requirement in found[name].requires or ():
            if "extra ==" not in requirement:
                waiting.append(re.split(r"[^\w.-]", requirement)[0].lower().replace("_", "-"))
    return sorted(found)


def make_site(folder: Path, *names: str) -> Path:
    """Link the files of packages and of what they require into a new folder, and return it."""
    folder.mkdir()
    for name in closure(*names):
        package = distribution(name)
        for top in {file.parts[0] for file in package.files or () if file.parts[0] not in ("..", "__pycache__")}:
            link = folder / top
            if not link.exists():
                link.symlink_to(Path(package.locate_file(top)).resolve())
    return folder


def run_bare(site: Path, home: Path, code: str) -> subprocess.CompletedProcess:
    """Run code with the packages of a folder alone and without a network; diffusers keeps its things in `home`."""
    head = f"import sys\nsys.path.append({str(site)!r})\n{NETWORK_OFF}\n"
    environment = {"PATH": os.environ["PATH"], "HF_HOME": str(home), "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [sys.executable, "-I", "-S", "-c", head + code], env=environment, capture_output=True, text=True, timeout=300
    )
