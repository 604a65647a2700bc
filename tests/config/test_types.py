"""What the type of a key says of its values, for every form in which a section may write it."""

from typing import Annotated, Literal

import pytest
from pydantic import BaseModel, Field

from lavie.config.types import entry, holds_text, scalars, section, takes_null, variants


class Inner(BaseModel):
    """A section."""


@pytest.mark.parametrize(
    "annotation, found",
    (
        (int, [int]),
        (int | None, [int, type(None)]),
        (Annotated[int | str, Field(ge=1)], [int, str]),
        (tuple[float, ...] | bool | None, [tuple[float, ...], bool, type(None)]),
    ),
)
def test_variants(annotation, found):
    assert list(variants(annotation)) == found


@pytest.mark.parametrize(
    "annotation, entries",
    (
        (tuple[int, ...], [int, int, int]),
        (tuple[int, str], [int, str, str]),
        (str | tuple[float, int, bool] | None, [float, int, bool]),
        (int | str, [None, None, None]),
    ),
)
def test_entries_of_lists(annotation, entries):
    """Past the end of a list of fixed length, its last type."""
    assert [entry(annotation, index) for index in range(3)] == entries


@pytest.mark.parametrize(
    "annotation, types, text, null",
    (
        (str, {str}, True, False),
        (Literal["a", "b"] | None, {str}, True, True),
        (Literal["a", 3], {str, int}, False, False),
        (tuple[float, ...] | bool, {float, bool}, False, False),
        (tuple[str, ...] | None, {str}, True, True),
        (Annotated[int, Field(ge=1)] | str, {int, str}, False, False),
        (Inner, set(), False, False),
    ),
)
def test_single_values(annotation, types, text, null):
    assert (scalars(annotation), holds_text(annotation), takes_null(annotation)) == (types, text, null)


@pytest.mark.parametrize("annotation", (Inner, Inner | None, str | Annotated[Inner, Field()]))
def test_sections(annotation):
    assert section(annotation) is Inner
    assert section(int | None) is None and section(tuple[Inner, ...]) is None
