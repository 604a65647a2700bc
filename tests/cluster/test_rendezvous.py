"""What keeps the ranks of a run from meeting is found, and told with its node."""

import os
import socket
import threading
import time
from types import SimpleNamespace

import pytest

from lavie.cluster import rendezvous
from lavie.cluster.rendezvous import meet, start_timeout
from lavie.errors import ClusterError, ConfigError, LostRankError
from lavie.launcher import find_place
from lavie.testing import free_port
from tests.cluster.places import place


@pytest.mark.slow
@pytest.mark.parametrize("address", ("no-such-node.invalid", "255.255.255.255"))
def test_rank_0_is_out_of_reach(address):
    began = time.monotonic()
    with pytest.raises(LostRankError, match=rf"node1 \(rank 1\): MASTER_ADDR {address}:29500 is out of reach"):
        meet(place(1, 29500, address=address), timeout=60, patience=2)
    assert time.monotonic() - began < 10


def test_rank_0_does_not_come():
    port = free_port()
    with pytest.raises(LostRankError, match=f"nobody listens at 127.0.0.1:{port} after 1 s.*that node's own"):
        meet(place(1, port), timeout=1, patience=0.5)


def test_the_port_is_taken():
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        with pytest.raises(
            ClusterError, match=rf"node0 \(rank 0\): MASTER_PORT {port} is taken by process {os.getpid()}"
        ):
            meet(place(0, port), timeout=5)


@pytest.mark.slow
def test_another_program_answers():
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        with pytest.raises(ClusterError, match=rf"node1 \(rank 1\): something answers at 127.0.0.1:{port}, but"):
            meet(place(1, port), timeout=5, patience=1)
    assert "meet" not in [thread.name for thread in threading.enumerate()], "it would wait in C++ for good"


@pytest.mark.slow
def test_what_another_program_answers_is_told():
    """A program that hangs up at once is no store, and the reason of torch.distributed stands in the message."""
    with socket.create_server(("127.0.0.1", 0)) as other:

        def hang_up():
            while True:
                try:
                    other.accept()[0].close()
                except OSError:
                    return

        threading.Thread(target=hang_up, daemon=True).start()
        with pytest.raises(LostRankError, match=r"not rank 0 of this run \((?!it says nothing).+\): MASTER_PORT"):
            meet(place(1, other.getsockname()[1]), timeout=5, patience=1)
        other.shutdown(socket.SHUT_RDWR)


def test_rank_0_is_elsewhere():
    with pytest.raises(ClusterError, match=r"MASTER_ADDR 192.0.2.7 is no address of this node, which has .*127.0.0.1"):
        meet(place(0, free_port(), address="192.0.2.7"), timeout=5)


def test_a_node_with_ipv6_alone(monkeypatch):
    interfaces = {
        "lo": [SimpleNamespace(family=socket.AF_INET6, address="::1")],
        "ib0": [SimpleNamespace(family=socket.AF_INET6, address=a) for a in ("fe80::1%ib0", "fd00::1")],
    }
    monkeypatch.setattr(rendezvous.psutil, "net_if_addrs", lambda: interfaces)
    with pytest.raises(ClusterError, match="no address of this node, which has ::1, fd00::1"):
        meet(place(0, free_port(), address="2001:db8::7"), timeout=5)


def test_nobody_launched_it(environment):
    environment()
    alone = find_place()
    assert (alone.rank, alone.local_rank, alone.world_size, alone.hosted) == (0, 0, 1, False)
    store, waited = meet(alone, timeout=1)
    store.set("works", "yes")
    assert store.get("works") == b"yes" and waited == 0


def test_the_limit_is_a_number_of_seconds(monkeypatch):
    monkeypatch.setenv("LAVIE_START_TIMEOUT", "7.5")
    assert start_timeout() == 7.5
    monkeypatch.setenv("LAVIE_START_TIMEOUT", "soon")
    with pytest.raises(ConfigError, match="LAVIE_START_TIMEOUT is 'soon': wanted seconds"):
        start_timeout()


@pytest.mark.parametrize(
    "address, set_before, chosen",
    (("10.0.0.5", "", "ib0"), ("10.0.0.5", "eth9", "eth9"), ("127.0.0.1", "", ""), ("10.0.0.6", "", "")),
)
def test_gloo_takes_the_interface_that_leads_to_rank_0(monkeypatch, address, set_before, chosen):
    """The one that has the address to send from among its own; the loopback leads nowhere."""
    interfaces = {"lo": ["127.0.0.1", "::1"], "eth0": ["192.0.2.1"], "ib0": ["fe80::1", "10.0.0.5"]}
    named = {name: [SimpleNamespace(address=a) for a in addresses] for name, addresses in interfaces.items()}
    monkeypatch.setattr(rendezvous.psutil, "net_if_addrs", lambda: named)

    class Route:
        def __init__(self, *_):
            pass

        def __enter__(self):
            return self

        def __exit__(self, *_):
            pass

        def connect(self, to):
            assert to == ("127.0.0.1", 29500)

        def getsockname(self):
            return (address, 1)

    monkeypatch.setattr(rendezvous.socket, "socket", Route)
    monkeypatch.setenv("GLOO_SOCKET_IFNAME", set_before)
    if not set_before:
        monkeypatch.delenv("GLOO_SOCKET_IFNAME")
    rendezvous._choose_interface(place(1, 29500, address="127.0.0.1"))
    assert os.environ.pop("GLOO_SOCKET_IFNAME", "") == chosen
