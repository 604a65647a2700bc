"""How the ranks of a run meet: at a store of rank 0, which the others reach at MASTER_ADDR:MASTER_PORT.

lavie.launcher says which rank a process is. What keeps ranks apart is found and named here within seconds, where
PyTorch would wait for minutes: a wrong address, a port that is taken, a node out of reach, a rank 0 that does not come.
"""

import errno
import ipaddress
import os
import socket
import threading
import time
from contextlib import suppress
from datetime import timedelta

import psutil
import torch.distributed as dist

from ..distributed import log
from ..errors import ClusterError, ConfigError, LostRankError
from ..launcher import Place, node_addresses

PATIENCE = 20.0
"""Seconds after which a rank says for whom it waits, or gives up an address that is out of reach."""
START_TIMEOUT = 300.0
"""Seconds after which ranks that have not come are given up: nodes of one job may start minutes apart. The variable
LAVIE_START_TIMEOUT sets another number."""
PAUSE = 0.2
"""Seconds between two attempts to connect."""


def start_timeout() -> float:
    """Return the seconds to wait for all ranks: LAVIE_START_TIMEOUT or START_TIMEOUT.

    Raises:
        ConfigError: LAVIE_START_TIMEOUT is no number of seconds.
    """
    text = os.environ.get("LAVIE_START_TIMEOUT", str(START_TIMEOUT))
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    if not 0 < seconds < 1e6:
        raise ConfigError(f"LAVIE_START_TIMEOUT is {text!r}: wanted seconds, as in LAVIE_START_TIMEOUT=600")
    return seconds


def meet(place: Place, timeout: float, patience: float = PATIENCE) -> tuple[dist.Store, float]:
    """Return the store of the run, and the seconds that this rank waited for it.

    A rank that is alone gets a store in memory, without a socket. Otherwise GLOO_SOCKET_IFNAME is set in os.environ,
    where it is missing, to the network that leads to rank 0.

    Args:
        place: this rank's.
        timeout: seconds to wait for a rank 0 that has not come, though its node answers.
        patience: seconds to wait for an address that is out of reach.

    Raises:
        LostRankError: rank 0 is out of reach, or has not come.
        ClusterError: MASTER_ADDR or MASTER_PORT cannot be right; the message names this node and what is wrong.
    """
    if place.world_size == 1:
        return dist.HashStore(), 0.0
    serves, waited = place.rank == 0 and not place.hosted, 0.0
    if serves:
        _check_address(place)
        _check_port(place)
    else:
        waited = _reach(place, timeout, patience)
    store = _open_store(place, serves, patience)
    store.set_timeout(timedelta(seconds=timeout + patience))
    _choose_interface(place)
    return dist.PrefixStore(f"lavie/{os.environ.get('TORCHELASTIC_RESTART_COUNT', '0')}", store), waited


def _open_store(place: Place, serves: bool, patience: float) -> dist.Store:
    """Return the store at MASTER_ADDR:MASTER_PORT.

    A thread opens it, for TCPStore waits forever for the answer of a program that is no store.

    Raises:
        LostRankError: what answers there is not rank 0 of this run.
    """
    answers: list[dist.Store | str] = []

    def connect() -> None:
        """Open the store, and leave it in `answers`, or the first line of what went wrong."""
        try:
            answers.append(
                dist.TCPStore(
                    place.address,
                    place.port,
                    is_master=serves,
                    wait_for_workers=False,
                    timeout=timedelta(seconds=patience),
                )
            )
        except RuntimeError as error:  # what torch.distributed raises derives from it
            answers.append(str(error).splitlines()[0])

    thread = threading.Thread(target=connect, daemon=True, name="meet")
    thread.start()
    thread.join(patience + 5)

    # A thread that still waits must end before Python does.
    found = answers[0] if answers else "it says nothing"
    if thread.is_alive():
        _hang_up(place.port)
        thread.join(patience)

    if isinstance(found, str):
        raise LostRankError(
            f"{place}: something answers at {place.endpoint}, but it is not rank 0 of this run ({found}): MASTER_PORT "
            "is taken by another program, or rank 0 has just failed. Look at rank 0's output, or choose another port"
        )
    return found


def _hang_up(port: int) -> None:
    """Shut this process's connections to a port, so that a thread that waits there for an answer gets an error.

    It would be left in C++, and asking for the GIL while Python ends: that aborts the process.
    """
    for connection in psutil.net_connections("tcp"):
        if connection.pid == os.getpid() and connection.raddr and connection.raddr.port == port:
            with suppress(OSError), socket.socket(fileno=os.dup(connection.fd)) as s:
                s.shutdown(socket.SHUT_RDWR)


def _check_address(place: Place) -> None:
    """Raise ClusterError if MASTER_ADDR is no address of this node, which is rank 0's: the others look for it there."""
    try:
        family, _, _, _, address = socket.getaddrinfo(place.address, place.port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, socket.SOCK_STREAM) as s:
            s.bind((address[0], 0))
    except socket.gaierror as error:
        raise ClusterError(
            f"{place}: MASTER_ADDR {place.address!r} has no address here ({error.strerror}): correct it"
        ) from None
    except OSError:
        raise ClusterError(
            f"{place}: MASTER_ADDR {place.address} is no address of this node, which has "
            f"{', '.join(node_addresses())}. Rank 0 must run on the node of MASTER_ADDR: set that to one of these, or "
            "give this node another rank"
        ) from None


def _check_port(place: Place) -> None:
    """Raise ClusterError, naming who listens, if MASTER_PORT cannot be bound on this node, which is rank 0's."""
    with socket.socket() as s:
        s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            s.bind(("", place.port))
        except OSError as error:
            what = (
                f"taken{_holder(place.port)}" if error.errno == errno.EADDRINUSE else f"closed to us ({error.strerror})"
            )
            raise ClusterError(
                f"{place}: MASTER_PORT {place.port} is {what}. Choose another: deepspeed and torchrun have "
                "--master_port, for other launchers set MASTER_PORT"
            ) from None


def _holder(port: int) -> str:
    """Return " by process ...", naming who listens on a port of this node, as far as this user may know."""
    try:
        for connection in psutil.net_connections("tcp"):
            if connection.laddr and connection.laddr.port == port and connection.status == psutil.CONN_LISTEN:
                process = psutil.Process(connection.pid)
                return f" by process {process.pid}: {' '.join(process.cmdline())[:120]}"
    except psutil.Error:
        pass
    return " by another process"


def _reach(place: Place, timeout: float, patience: float) -> float:
    """Wait until something listens at MASTER_ADDR:MASTER_PORT, and return the seconds that took.

    A node that refuses the connection is up, and its rank 0 may yet come: it has `timeout` seconds. An address that is
    out of reach stays so: it has `patience` seconds.

    Raises:
        LostRankError: nothing listens in time.
    """
    began, warned, refused = time.monotonic(), False, False
    while True:
        try:
            socket.create_connection((place.address, place.port), timeout=max(0.5, patience / 4)).close()
            return time.monotonic() - began
        except ConnectionRefusedError as error:
            refused, reason = True, error.strerror
        except OSError as error:  # no such name, no route, no answer
            refused, reason = False, error.strerror or str(error)

        # An address that is out of reach is wrong; a node that refuses may be waiting for its rank 0.
        waited = time.monotonic() - began
        if not refused and waited > patience:
            raise LostRankError(
                f"{place}: MASTER_ADDR {place.endpoint} is out of reach from here: {reason}. Correct MASTER_ADDR (the "
                "hostfile, --master_addr), or the network or firewall between the nodes"
            )
        if refused and waited > patience and not warned:
            warned = True
            log.warning(f"{place}: nobody listens at {place.endpoint} yet: rank 0 is late, or has another MASTER_PORT")

        # A loopback address leads every node to itself, where nobody may ever listen.
        if waited > timeout:
            loopback = place.address.startswith("127.") or place.address == "localhost"
            raise LostRankError(
                f"{place}: nobody listens at {place.endpoint} after {waited:.0f} s: rank 0 has not started, has "
                "failed, or has another MASTER_PORT"
                + (", or is on another node: there, this address would be that node's own" if loopback else "")
                + ". LAVIE_START_TIMEOUT is the limit in seconds"
            )

        time.sleep(PAUSE)


def _choose_interface(place: Place) -> None:
    """Set GLOO_SOCKET_IFNAME in os.environ, where it is missing, to the network interface that leads to rank 0.

    By itself gloo takes the interface of the host name, which may be the loopback.
    """
    try:
        family, _, _, _, address = socket.getaddrinfo(place.address, place.port, type=socket.SOCK_DGRAM)[0]
        with socket.socket(family, socket.SOCK_DGRAM) as s:
            s.connect(address)  # sends nothing, but chooses the address to send from
            address_here = s.getsockname()[0]
    except OSError:  # only torchrun's agent knows the way
        return
    for name, addresses in psutil.net_if_addrs().items():
        if any(a.address == address_here for a in addresses) and not ipaddress.ip_address(address_here).is_loopback:
            os.environ.setdefault("GLOO_SOCKET_IFNAME", name)
