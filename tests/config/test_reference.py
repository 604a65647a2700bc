"""docs/configuration.md is what the types say."""

from pathlib import Path

import pytest

from lavie.config.base import Strict
from lavie.config.curate import CurateConfig
from lavie.config.curate_select import SelectConfig
from lavie.config.reference import CURATION, SECTIONS, field_docs, render, type_name
from lavie.config.train import TrainConfig

PAGE = Path(__file__).resolve().parents[2] / "docs/configuration.md"


def test_the_page_is_up_to_date():
    assert PAGE.read_text(encoding="utf-8") == render(), "run: python -m lavie.config.reference > docs/configuration.md"


@pytest.mark.slow
@pytest.mark.parametrize("model", [model for _, model in (*SECTIONS, *CURATION)])
def test_every_key_is_explained(model):
    assert field_docs(model).keys() == model.model_fields.keys()
    assert all(f"| `{name}` |" in render() for name in (*model.input_keys, *model.model_fields))


def test_every_section_has_a_table():
    tables = {model for _, model in SECTIONS}
    sections = {field.annotation for field in TrainConfig.model_fields.values()}
    assert {s for s in sections if isinstance(s, type) and issubclass(s, Strict)} < tables


def test_every_section_of_a_curation_with_keys_has_a_table():
    headings = {heading.strip("`"): model for heading, model in CURATION}
    for name, field in CurateConfig.model_fields.items():
        if name != "scorers" and field.annotation.model_fields:
            assert headings[name] is field.annotation, name


@pytest.mark.parametrize(
    "key, words",
    (
        ("seed", "integer"),
        ("adam_beta1", "number >= 0 and < 1"),
        ("snr_gamma", "number > 0 or null"),
        ("stage", "`base`, `interpolation`, `vsr`"),
        ("validation_prompts", "list of text"),
        ("model", "section"),
    ),
)
def test_types_are_told_in_words(key, words):
    field = TrainConfig.model_fields[key]
    assert type_name(field.annotation, tuple(field.metadata)) == words


def test_sections_by_name_and_lists_of_sections_are_told_in_words():
    assert type_name(CurateConfig.model_fields["scorers"].annotation) == "scorer by name"
    assert type_name(SelectConfig.model_fields["rules"].annotation) == "list of rule or null"
