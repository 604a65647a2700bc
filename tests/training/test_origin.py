"""What a run writes down of its origin: the commit, the code, the versions, and the shares of its datasets."""

import subprocess
from dataclasses import replace

import pytest

from lavie.data.order.plan import Exposure
from lavie.training import origin
from lavie.training.origin import commit, facts, shares
from tests.training.runs import NO_DATA


def git(folder, *words):
    identity = ("-c", "user.name=a", "-c", "user.email=a@b")
    return subprocess.run(["git", "-C", folder, *identity, *words], capture_output=True, text=True, check=True).stdout


@pytest.fixture
def checkout(tmp_path):
    (tmp_path / "train.py").write_text("a")
    git(tmp_path, "init", "--quiet")
    git(tmp_path, "add", "train.py")
    git(tmp_path, "commit", "--quiet", "-m", "a")
    git(tmp_path, "tag", "-a", "v1", "-m", "a")
    return tmp_path


def test_the_commit_of_a_checkout_and_whether_files_differ(checkout):
    head = git(checkout, "rev-parse", "HEAD").strip()
    assert commit(checkout) == head and len(head) == 40
    (checkout / "notes.txt").write_text("untracked files are no part of the code")
    assert commit(checkout) == head
    (checkout / "train.py").write_text("b")
    assert commit(checkout) == f"{head}-dirty"


def test_no_commit_where_there_is_no_checkout_of_this_project(checkout, monkeypatch):
    """An installed package may lie within the checkout of something else."""
    (checkout / "site").mkdir()
    assert commit(checkout / "site") is None
    monkeypatch.setenv("PATH", "")
    assert commit(checkout) is None
    monkeypatch.undo()
    (checkout / "train.py").unlink()
    assert commit(checkout) is None


def test_facts_are_complete(monkeypatch):
    told = facts(NO_DATA)
    assert {"lavie", "commit", "code", "versions", "ranks", "shares"} == told.keys()
    assert len(told["code"]) == 16 and told["versions"]["torch"] and told["ranks"] == 1
    monkeypatch.setattr(origin, "code_hashes", lambda: {"lavie/a.py": "1"})
    assert facts(NO_DATA)["code"] != told["code"]


def plan(points):
    """A plan of one dataset in two buckets, which have a share that grows and a quarter."""
    empty = dict(kind="videos", samples=3, shards=frozenset(), taken=[0] * len(points), sample_bytes=1.0, seconds=1.0)
    growing = [i / (2 * len(points)) for i in range(len(points))]
    parts = [
        Exposure(name="a", bucket=bucket, shares=share, enlarged=0, cut=0.0, **empty)
        for bucket, share in (("1x8x8", growing), ("2x8x8", [0.25] * len(points)))
    ]
    return replace(NO_DATA, steps=points, exposures=parts, samples={("videos", "a"): 3})


def test_shares_are_summed_over_buckets_and_thinned():
    told = shares(plan(list(range(201))))
    assert told["steps"] == list(range(0, 201, origin.EVERY))
    [dataset] = told["datasets"]
    assert (dataset["name"], dataset["kind"], dataset["samples"]) == ("a", "videos", 3)
    assert dataset["shares"] == pytest.approx([step / 402 + 0.25 for step in told["steps"]], abs=1e-4)


@pytest.mark.parametrize("points", ([0], [0, 1, 2, 3], [0, 3, 7, 8, 9, 11, 12]))
def test_a_short_plan_keeps_its_ends(points):
    told = shares(plan(points))
    assert told["steps"][0] == 0 and told["steps"][-1] == points[-1]
    assert len(told["datasets"][0]["shares"]) == len(told["steps"])
