"""Which rank this process is: the place that torchrun, deepspeed, MPI or SLURM gave it."""

import ipaddress
import os
import socket
from dataclasses import dataclass

import psutil

from .errors import ClusterError, ConfigError

MPI_RANKS = ("OMPI_COMM_WORLD_RANK", "PMI_RANK")
"""What Open MPI, and MPICH or Intel MPI, set in the processes that they start."""


MPI_SIZES = ("OMPI_COMM_WORLD_SIZE", "PMI_SIZE")


SLURM_NUMBERS = {"RANK": "SLURM_PROCID", "LOCAL_RANK": "SLURM_LOCALID", "WORLD_SIZE": "SLURM_STEP_NUM_TASKS"}
"""What srun sets in its tasks, by what torch.distributed calls it. mpirun may start its daemons so: ask MPI first."""


@dataclass(frozen=True)
class Place:
    """Which rank this process is, and where rank 0 is."""

    rank: int
    world_size: int
    local_rank: int
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


def find_place() -> Place:
    """This process's place, from its launcher; RANK and the rest are set in the environment where they were not.

    Raises ConfigError if what the launcher has set makes no sense.
    """
    if "RANK" not in os.environ:
        if any(name in os.environ for name in MPI_RANKS):
            os.environ.update(_ask_mpi())
        elif os.environ.get("SLURM_STEP_NUM_TASKS", "1") != "1":  # else each task would be a run of its own
            os.environ.update({name: os.environ[theirs] for name, theirs in SLURM_NUMBERS.items()})
    for name, value in {"RANK": "0", "WORLD_SIZE": "1"}.items():
        os.environ.setdefault(name, value)
    world_size = _number("WORLD_SIZE", 1)
    alone = world_size == 1
    if alone:  # nobody to meet: the values only have to be there
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
    text = os.environ[name]
    if text.isdecimal() and lowest <= int(text) and (highest is None or int(text) <= highest):
        return int(text)
    wanted = f"{lowest} to {highest}" if highest is not None else f"{lowest} or more"
    raise ConfigError(f"{name} is {text!r}: wanted {wanted}. The launcher sets it; unset it for a run of one rank")


def _ask_mpi() -> dict[str, str]:
    """The environment of this process by MPI: rank 0 tells its address, and a port that is free there."""
    try:
        from mpi4py import MPI
    except ImportError as error:
        raise ConfigError(f"mpirun started this process, but {error}: pip install 'lavie[mpi]'") from None
    world = MPI.COMM_WORLD
    started = next((os.environ[name] for name in MPI_SIZES if name in os.environ), str(world.size))
    if started != str(world.size):
        raise ConfigError(
            f"mpirun started {started} processes, but mpi4py sees {world.size}: it was built for another MPI. Build it "
            "for this one: pip install --no-binary mpi4py --force-reinstall mpi4py"
        )
    local = world.Split_type(MPI.COMM_TYPE_SHARED)
    endpoint = None
    if world.rank == 0:
        address = "127.0.0.1" if local.size == world.size else _known_address()
        endpoint = os.environ.get("MASTER_ADDR") or address, os.environ.get("MASTER_PORT") or str(_free_port())
    address, port = world.bcast(endpoint)
    places = {
        "RANK": world.rank,
        "WORLD_SIZE": world.size,
        "LOCAL_RANK": local.rank,
        "LOCAL_WORLD_SIZE": local.size,
        "MASTER_ADDR": address,
        "MASTER_PORT": port,
    }
    MPI.Finalize()  # at the exit of a rank that failed, it would wait for the others
    return {name: str(value) for name, value in places.items()}


def _free_port() -> int:
    with socket.socket() as s:
        s.bind(("", 0))
        return s.getsockname()[1]


def _own_addresses(loopback: bool = True) -> list[str]:
    """The addresses of this node, IPv4 first, without those that mean something on one link only."""
    found = [a for every in psutil.net_if_addrs().values() for a in every]
    addresses = [
        ipaddress.ip_address(a.address) for f in (socket.AF_INET, socket.AF_INET6) for a in found if a.family == f
    ]
    chosen = [str(a) for a in addresses if not a.is_link_local and (loopback or not a.is_loopback)]
    if not chosen:
        raise ClusterError(f"{socket.gethostname()} has no network address: set MASTER_ADDR, or run on one node")
    return chosen


def _known_address() -> str:
    """An address of this node for the others: that of its name, else the first. A bridge has the same on every node."""
    mine = _own_addresses(loopback=False)
    try:
        named = socket.gethostbyname(socket.gethostname())
    except OSError:
        named = ""
    return named if named in mine else mine[0]
