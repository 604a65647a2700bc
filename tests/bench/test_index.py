"""The benchmark of the table finds the samples that it wrote."""

from lavie.bench.index import read, write


def test_a_small_table(tmp_path, capsys):
    write(tmp_path / "index.table", 100)
    read(tmp_path / "index.table", 100, 40)
    printed = capsys.readouterr().out
    assert printed.startswith("100 rows")
    assert "40 random samples" in printed
    assert "videos selected" in printed
