"""What nodes may differ in is found, and told with the nodes."""

import importlib.metadata
import shutil

import pytest

from lavie.cluster import rank_facts
from lavie.cluster.rank_facts import code_hashes, differences, visible_shards
from tests.cluster.places import ZERO3, facts_of, place


def test_settings_of_deepspeed_differ(rendered, tmp_path):
    other = tmp_path / "other.json"
    other.write_text(ZERO3.read_text().replace('"stage": 3', '"stage": 2'))
    (fault,) = differences([facts_of(place(0, 1), rendered), facts_of(place(1, 1), rendered, settings=other)])
    assert fault.startswith("--deepspeed: zero_optimization.stage: 3 on node0 (rank 0); 2 on node1 (rank 1)")


def test_code_differs(rendered):
    a, b = facts_of(place(0, 1), rendered), facts_of(place(1, 1), rendered)
    assert {"train.py", "lavie/training/objective.py", "lavie/kernels/cost.py"} <= code_hashes().keys()
    b["code"] = b["code"] | {"lavie/training/objective.py": "0"}
    del b["code"]["train.py"]
    b["environment"] = b["environment"] | {"torch": "2.11.0"}
    version, code = differences([a, b])
    assert version.startswith(f"torch: {a['environment']['torch']} on node0 (rank 0); 2.11.0 on node1 (rank 1)")
    assert code.startswith(
        "code: lavie/training/objective.py, train.py differ: one version on node0 (rank 0), another on node1"
    )


def test_shards_differ(rendered, tmp_path):
    def view(number: int) -> dict:
        folder = tmp_path / str(number)
        return facts_of(place(number, 1), rendered) | {"shards": {"data/x": visible_shards(str(folder / "train"))}}

    for number in range(5):
        shutil.copytree(rendered, tmp_path / str(number))
    base = view(0)
    assert differences([base, view(1)]) == []

    tar = next((tmp_path / "2/train").glob("*.tar"))
    tar.unlink()
    (fault,) = differences([base, view(2)])
    names = len(list((tmp_path / "0/train").glob("00000.*")))  # shards and their indices, not the packing record
    assert f"data data/x: {tar.name} differ: {names} files on node0" in fault
    assert f"on node2 without {tar.name}" in fault

    index = next((tmp_path / "3/train").glob("*.index.jsonl"))
    content = index.read_bytes()
    digit = content.index(b'"ends": "') + 9
    index.write_bytes(content[:digit] + (b"0" if content[digit : digit + 1] != b"0" else b"1") + content[digit + 1 :])
    (fault,) = differences([base, view(3)])  # of the same size, made from another shard
    assert f"data data/x: {index.name} differ" in fault

    shutil.rmtree(tmp_path / "4/train")
    (fault,) = differences([base, view(4), base])
    assert f"{names} files on node0 (rank 0); absent on node4 (rank 4)" in fault


def test_a_shard_elsewhere_is_looked_for(rendered, tmp_path):
    from lavie.data.shards.index_file import Sample, read_header, read_index, write_index

    tar = tmp_path / "elsewhere.tar"
    shutil.copy(next((rendered / "train").glob("*.tar")), tar)
    index = next((rendered / "train").glob("*.index.jsonl"))
    samples = [Sample(shard=str(tar), **line) for line in read_index(index, read_header(index))]
    (tmp_path / "indices").mkdir()
    write_index(tar, samples, out=tmp_path / "indices")
    seen = visible_shards(str(tmp_path / "indices"))
    assert seen["files"][str(tar)] == f"{tar.stat().st_size} bytes"
    tar.unlink()
    assert visible_shards(str(tmp_path / "indices"))["files"][str(tar)] == "absent"


def test_the_versions_of_all_that_computes_are_compared(rendered, monkeypatch):
    """What makes numbers, moves them between ranks, reads media, or writes weights."""
    monkeypatch.setattr(importlib.metadata, "version", lambda name: "1.0")
    a = facts_of(place(0, 1), rendered)
    monkeypatch.setattr(importlib.metadata, "version", lambda name: f"{name} 2")
    b = facts_of(place(1, 1), rendered)
    packages = ["torch", "deepspeed", "triton", "transformers", "diffusers", "safetensors", "numpy", "av", "pillow"]
    assert sorted(differences([a, b])) == sorted(
        f"{name}: 1.0 on node0 (rank 0); {name} 2 on node1 (rank 1): install and start the run alike on every node"
        for name in packages
    )


def test_names_are_listed_in_order(rendered):
    """Of many files that differ, the first four by name are listed, in whatever order they were found."""
    a, b = facts_of(place(0, 1), rendered), facts_of(place(1, 1), rendered)
    for facts, text in ((a, "1"), (b, "2")):
        facts["code"] = {f"lavie/{letter}.py": text for letter in "hgfaedcb"}
    (fault,) = differences([a, b])
    assert fault.startswith("code: lavie/a.py, lavie/b.py, lavie/c.py, lavie/d.py and 4 more differ: one version on")


@pytest.mark.parametrize("shards, one_by_one", ((2, True), (3, False)))
def test_very_many_shards_are_counted(tmp_path, monkeypatch, shards, one_by_one):
    """Up to LISTED shards with their indices are told one by one, of more their number and bytes."""
    monkeypatch.setattr(rank_facts, "LISTED", 2)
    for number in range(2 * shards):
        (tmp_path / f"{number}.tar").write_bytes(bytes(10 + number))
    seen = visible_shards(str(tmp_path))
    if one_by_one:
        assert seen == {"files": {"0.tar": "10 bytes", "1.tar": "11 bytes", "2.tar": "12 bytes", "3.tar": "13 bytes"}}
    else:
        assert seen == {"what": "6 files of 75 bytes"}
