"""Which rank this process is: the place that torchrun, deepspeed, MPI or SLURM gave it.

The launcher is found in this order, because one may have started another:

1. RANK is set: torchrun or deepspeed, or a script that does as they do (launch/rank.sh).
2. The variables of MPI_NUMBERS tell of several ranks, and are not those that srun sets for its own tasks: mpirun.
3. SLURM says that this process is one of several tasks: srun.
4. Otherwise nobody launched this process, and it is alone.

`launched_rank` only reads the environment. `find_place` also finds where rank 0 is, and completes the environment.
"""

import ipaddress
import os
import socket
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import psutil

from .errors import ClusterError, ConfigError

MPI_NUMBERS = (("OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE"), ("PMI_RANK", "PMI_SIZE"))
"""Rank and number of ranks, as Open MPI names them, and as MPICH and Intel MPI do."""
MPI_LOCAL_RANKS = ("OMPI_COMM_WORLD_LOCAL_RANK", "MPI_LOCALRANKID")
"""The rank among those of one node, as Open MPI names it, and as MPICH and Intel MPI do."""
SLURM_NUMBERS = {"RANK": "SLURM_PROCID", "LOCAL_RANK": "SLURM_LOCALID", "WORLD_SIZE": "SLURM_STEP_NUM_TASKS"}
"""torch.distributed's names -> the variables that srun sets in its tasks. mpirun may start its daemons by srun, so MPI
is asked first."""

LOCAL_SIZES = ("LOCAL_WORLD_SIZE", "LOCAL_SIZE")
"""The number of ranks of one node, as torchrun names it, and as DeepSpeed's launcher does."""
SHOWN = 4
"""Nodes, names or ranges of ranks that a message lists."""

Launcher = Literal["torch", "mpi", "slurm", "none"]


@dataclass(frozen=True)
class LaunchedRank:
    """What the launcher says of this process by the environment alone."""

    launcher: Launcher
    rank: int
    """0 .. world_size - 1."""
    world_size: int
    """The number of processes that were launched together, 1 or more."""
    local_rank: int | None
    """The rank among those of this node, from 0; None where the launcher does not say."""


@dataclass(frozen=True)
class Place:
    """Which rank this process is, and where rank 0 is."""

    rank: int
    """0 .. world_size - 1."""
    world_size: int
    """The number of ranks of the run, 1 or more."""
    local_rank: int
    """The rank among those of this node, from 0: which of its GPUs is this rank's."""
    address: str
    """MASTER_ADDR: a name or an address of the node of rank 0."""
    port: int
    """MASTER_PORT, 1 to 65535."""
    node: str
    """The host name of this node."""
    hosted: bool
    """Whether the launcher keeps the store (torchrun), rather than rank 0."""

    @property
    def endpoint(self) -> str:
        """MASTER_ADDR:MASTER_PORT."""
        return f"{self.address}:{self.port}"

    def __str__(self) -> str:
        return f"{self.node} (rank {self.rank})"


def _launcher() -> Launcher:
    """Return what started this process, by the order in the module's docstring."""
    if "RANK" in os.environ:
        return "torch"
    if _started_by_mpirun():
        return "mpi"
    # Were the tasks of srun not ranks, each of them would be a run of its own, all in one folder.
    return "slurm" if os.environ.get("SLURM_STEP_NUM_TASKS", "1") != "1" else "none"


def _started_by_mpirun() -> bool:
    """Return whether mpirun started this process, as one of several.

    Where SLURM speaks PMI, srun gives PMI_RANK and PMI_SIZE to its own tasks too, also to the one task of
    `srun --pty bash`. They are then SLURM's numbers. MPICH's mpirun, which may start its daemons by srun, sets
    MPI_LOCALRANKID as well.
    """
    for rank, size in MPI_NUMBERS:
        if rank not in os.environ:
            continue
        if os.environ.get(size) == "1":
            return False
        slurm = [os.environ.get(SLURM_NUMBERS[name]) for name in ("RANK", "WORLD_SIZE")]
        by_srun = rank == "PMI_RANK" and [os.environ[rank], os.environ.get(size)] == slurm
        return not by_srun or "MPI_LOCALRANKID" in os.environ
    return False


def launched_rank() -> LaunchedRank:
    """Return the rank that the launcher gave this process, reading the environment and changing nothing.

    Raises:
        ConfigError: a variable of the launcher is missing or no number.
    """
    launcher = _launcher()
    rank, world_size = "RANK", "WORLD_SIZE"
    local_ranks = ["LOCAL_RANK", *MPI_LOCAL_RANKS]
    if launcher == "mpi":
        rank, world_size = next(names for names in MPI_NUMBERS if names[0] in os.environ)
    elif launcher == "slurm":
        rank, world_size = SLURM_NUMBERS["RANK"], SLURM_NUMBERS["WORLD_SIZE"]
        local_ranks.append(SLURM_NUMBERS["LOCAL_RANK"])

    local_rank = next((_number(name, 0) for name in local_ranks if name in os.environ), None)
    if launcher == "none":
        return LaunchedRank(launcher, 0, 1, local_rank)
    ranks = _number(world_size, 1) if world_size in os.environ else 1
    return LaunchedRank(launcher, _number(rank, 0, ranks - 1), ranks, local_rank)


def local_world_size() -> int:
    """Return the number of ranks on this node as the launcher says it: LOCAL_WORLD_SIZE, else DeepSpeed's LOCAL_SIZE.

    It is 1 where no launcher says it.

    Raises:
        ConfigError: it is no such number.
    """
    name = next((name for name in LOCAL_SIZES if os.environ.get(name)), None)
    return _number(name, 1) if name else 1


def name_ranks(ranks: Sequence[int], world_size: int | None = None) -> str:
    """Return some ranks in words: "rank 3", "ranks 0-2, 5, 7-8", or "all 64 ranks".

    Args:
        ranks: ascending, at least one. Of many ranges, the first SHOWN are named.
        world_size: the number of all ranks, where their being all is worth a word.
    """
    if len(ranks) == world_size:
        return f"all {world_size} ranks"
    firsts = [rank for rank in ranks if rank - 1 not in ranks]
    lasts = [rank for rank in ranks if rank + 1 not in ranks]
    spans = [f"{first}" if first == last else f"{first}-{last}" for first, last in zip(firsts, lasts, strict=True)]
    return f"rank{'s' if len(ranks) > 1 else ''} {list_some(spans)}"


def list_some(names: Sequence[str]) -> str:
    """Return the first SHOWN of some names, and how many more there are."""
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(names[:SHOWN]) + more


def planned_world_size() -> int:
    """Return the number of ranks to plan a run for: WORLD_SIZE where it is set, else the ranks that were launched.

    WORLD_SIZE alone, without a launcher, asks what a run of so many ranks would be.

    Raises:
        ConfigError: WORLD_SIZE, or a variable of the launcher, is no such number.
    """
    if "WORLD_SIZE" not in os.environ:
        return launched_rank().world_size
    text = os.environ["WORLD_SIZE"]
    if not text.isdecimal() or int(text) < 1:
        raise ConfigError(f"WORLD_SIZE is {text!r} in the environment: wanted the number of ranks, 1 or more")
    return int(text)


def find_place() -> Place:
    """Return this process's place in the run, and set the variables of torch.distributed where they are missing.

    PyTorch and DeepSpeed read RANK, WORLD_SIZE, LOCAL_RANK, MASTER_ADDR and MASTER_PORT from os.environ. Under mpirun
    all ranks call this function together, and MPI is finalised afterwards.

    Raises:
        ConfigError: what the launcher has set makes no sense.
    """
    launcher = _launcher()
    if launcher == "mpi":
        os.environ.update(_ask_mpi())
    elif launcher == "slurm":
        os.environ.update({name: os.environ[slurm_name] for name, slurm_name in SLURM_NUMBERS.items()})
    os.environ.setdefault("RANK", "0")
    os.environ.setdefault("WORLD_SIZE", "1")

    # A rank that is alone meets nobody: the values only have to be there.
    world_size = _number("WORLD_SIZE", 1)
    if world_size == 1:
        os.environ.setdefault("LOCAL_RANK", "0")
        os.environ.setdefault("MASTER_ADDR", "127.0.0.1")
        os.environ.setdefault("MASTER_PORT", "29500")
    elif missing := [name for name in ("MASTER_ADDR", "MASTER_PORT", "LOCAL_RANK") if not os.environ.get(name)]:
        raise ConfigError(
            f"WORLD_SIZE is {world_size}, but {' and '.join(missing)} not set: start the ranks with deepspeed, "
            "torchrun, mpirun or srun (launch/), or export the address and a free port of rank 0's node to all of them"
        )

    return Place(
        rank=_number("RANK", 0, world_size - 1),
        world_size=world_size,
        local_rank=_number("LOCAL_RANK", 0),
        address=os.environ["MASTER_ADDR"],
        port=_number("MASTER_PORT", 1, 65535),
        node=socket.gethostname(),
        hosted=os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True",
    )


def _number(name: str, lowest: int, highest: int | None = None) -> int:
    """Return the environment variable `name` as an integer of lowest .. highest; a ConfigError names it otherwise."""
    text = os.environ.get(name, "")
    if text.isdecimal() and lowest <= int(text) and (highest is None or int(text) <= highest):
        return int(text)
    wanted = f"{lowest} to {highest}" if highest is not None else f"{lowest} or more"
    raise ConfigError(f"{name} is {text!r}: wanted {wanted}. The launcher sets it; unset it for a run of one rank")


def _ask_mpi() -> dict[str, str]:
    """Return torch.distributed's variables for this process, agreed on over MPI; rank 0 chooses where to meet.

    All ranks call it together. It changes no environment, but starts MPI and finalises it.

    Raises:
        ConfigError: mpi4py is missing, finds no MPI library, or was built for another MPI than the one of this mpirun.
    """
    try:
        from mpi4py import MPI
    except Exception as error:  # without an MPI library, mpi4py raises RuntimeError
        names = next(f"{rank} and {size}" for rank, size in MPI_NUMBERS if rank in os.environ)
        raise ConfigError(
            f"{names} say that mpirun started this process, but importing mpi4py failed ({type(error).__name__}: "
            f"{error}): pip install 'lavie[mpi]' with the MPI of this mpirun in PATH, or unset them to run one rank"
        ) from None
    world = MPI.COMM_WORLD
    started = next((os.environ[size] for _, size in MPI_NUMBERS if size in os.environ), str(world.size))
    if started != str(world.size):
        raise ConfigError(
            f"mpirun started {started} processes, but mpi4py sees {world.size}: it was built for another MPI. Build it "
            "for this one: pip install --no-binary mpi4py --force-reinstall mpi4py"
        )

    # Rank 0 gives the address by which the others reach it, and a port that is free on its node.
    local = world.Split_type(MPI.COMM_TYPE_SHARED)
    endpoint = None
    if world.rank == 0:
        address = "127.0.0.1" if local.size == world.size else _known_address()
        endpoint = os.environ.get("MASTER_ADDR") or address, os.environ.get("MASTER_PORT") or str(_free_port())
    address, port = world.bcast(endpoint)

    variables = {
        "RANK": world.rank,
        "WORLD_SIZE": world.size,
        "LOCAL_RANK": local.rank,
        "LOCAL_WORLD_SIZE": local.size,
        "MASTER_ADDR": address,
        "MASTER_PORT": port,
    }
    MPI.Finalize()  # at the exit of a rank that failed, it would wait for the others
    return {name: str(value) for name, value in variables.items()}


def _free_port() -> int:
    """Return a TCP port of this node that nobody listens on."""
    with socket.socket() as s:
        s.bind(("", 0))
        return s.getsockname()[1]


def node_addresses(loopback: bool = True) -> list[str]:
    """Return the addresses of this node, IPv4 first, without those that mean something on one link only.

    Args:
        loopback: whether the addresses by which a node reaches only itself are among them.

    Raises:
        ClusterError: there is no address.
    """
    found = [address for interface in psutil.net_if_addrs().values() for address in interface]
    chosen = []
    for family in (socket.AF_INET, socket.AF_INET6):
        for entry in found:
            if entry.family == family:
                address = ipaddress.ip_address(entry.address)
                if not address.is_link_local and (loopback or not address.is_loopback):
                    chosen.append(str(address))
    if not chosen:
        raise ClusterError(f"{socket.gethostname()} has no network address: set MASTER_ADDR, or run on one node")
    return chosen


def _known_address() -> str:
    """Return the address by which other nodes reach this one: that of its host name, else the first of its own.

    The host name comes first because a container bridge has the same address on every node.
    """
    addresses = node_addresses(loopback=False)
    try:
        named = socket.gethostbyname(socket.gethostname())
    except OSError:
        named = ""
    return named if named in addresses else addresses[0]
