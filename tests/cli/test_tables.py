"""Long lists are cut short, and nothing in them is taken for markup."""

import io

import pytest
from rich.console import Console

from lavie.cli.tables import SHOWN, print_counts, print_first
from lavie.console import make_console


@pytest.fixture
def console():
    return make_console(file=io.StringIO(), width=80)


def printed(console: Console) -> list[str]:
    return console.file.getvalue().splitlines()


def test_a_short_list_is_printed_whole(console):
    print_first(console, ["a [red]", "b"], "listed in c.jsonl")
    assert printed(console) == ["a [red]", "b"]


def test_of_a_long_list_the_rest_is_counted(console):
    print_first(console, [str(number) for number in range(SHOWN + 3)], "listed in c.jsonl")
    assert printed(console) == [*(str(number) for number in range(SHOWN)), "... and 3 more, listed in c.jsonl"]


def test_counts_have_a_title_as_it_is_written(console):
    print_counts(console, [("videos", 12)], title="out[0]")
    title, *_, row, _ = printed(console)
    assert title.strip() == "out[0]"
    assert row.split()[1::2] == ["videos", "12"]


def test_a_title_wider_than_its_table_is_not_broken(console):
    print_counts(console, [("videos", 12)], title="runs/demo/later/validation")
    assert printed(console)[0] == "runs/demo/later/validation"
