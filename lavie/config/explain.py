"""What is wrong with the values of a configuration, in the words of its keys: pydantic's errors, one line each."""

import difflib
import json
from collections.abc import Iterable
from typing import Any, get_args

from pydantic import BaseModel, ValidationError
from pydantic_core import to_jsonable_python

from .base import Strict
from .types import entry, key_type, known_keys, scalars, section, takes_null, variants

WANTED = {
    "int_parsing": "wanted a whole number",
    "int_type": "wanted a whole number",
    "int_from_float": "wanted a whole number",
    "float_parsing": "wanted a number",
    "float_type": "wanted a number",
    "finite_number": "wanted a finite number",
    "bool_parsing": "wanted true or false",
    "bool_type": "wanted true or false",
    "string_type": "wanted text",
    "literal_error": "wanted {expected}",
    "tuple_type": "wanted a list, as [a, b]",
    "greater_than_equal": "wanted {ge:g} or more",
    "greater_than": "wanted more than {gt:g}",
    "less_than_equal": "wanted {le:g} or less",
    "less_than": "wanted less than {lt:g}",
    "multiple_of": "wanted a multiple of {multiple_of:g}",
    "too_short": "wanted {min_length} entries or more",
    "too_long": "wanted {max_length} entries or fewer",
}
"""pydantic's kinds of errors, each with what is wanted instead; their context fills in the braces."""

SWITCHES = {
    "validation_steps": "data.validation=[] validation_prompts=[] switch validation off",
    "validation_batches": "data.validation=[] switches the validation loss off",
    "checkpointing_steps": "a number above max_train_steps saves the last step alone",
}
"""Keys that somebody may set to 0 to switch something off, each with what does that."""

OFF = (0, False, None, "none", "None", "off", "no", "false")
"""Values by which one would switch something off."""


def explain(model: type[Strict], error: ValidationError) -> list[str]:
    """Return what is wrong with the values of a section: a line for each key."""
    lines: dict[str, list[str]] = {}
    for entry_ in error.errors():
        place, annotation = _place(model, entry_["loc"])
        if entry_["type"] == "missing" and place[-1].isdecimal():  # of a list: one line, however many entries it lacks
            place, annotation = _place(model, entry_["loc"][:-1])
        name = ".".join(place)
        told = _message(model, name, annotation, entry_)
        if told not in lines.setdefault(name, []):
            lines[name].append(told)

    # Of the types that a key may have, the one that got further is the one that was meant.
    deepest = {name for name in lines if not any(other.startswith(name + ".") for other in lines) or name == ""}
    return [line for name in lines if name in deepest for line in _joined(name, lines[name])]


def _joined(name: str, messages: list[str]) -> list[str]:
    """Return the messages of one key as lines; those about what was wanted of it make one."""
    wanted = [message for message in messages if message.startswith(f"{name}: wanted ")]
    if len(wanted) < 2:
        return messages
    heads = [message.rpartition(" (got ")[0].removeprefix(f"{name}: wanted ") for message in wanted]
    got = wanted[0].rpartition(" (got ")[2]
    return [f"{name}: wanted {', or '.join(heads)} (got {got}", *(m for m in messages if m not in wanted)]


def _place(model: type[Strict], parts: Iterable[Any]) -> tuple[list[str], Any]:
    """Return the dotted place of an error and the type there, without the names by which pydantic tells types apart."""
    place: list[str] = []
    annotation: Any = model
    for part in parts:
        at = section(annotation) if annotation is not None else None
        if isinstance(part, int):
            place.append(str(part))
            annotation = entry(annotation, part)
        elif at is not None and key_type(at, part) is not None:
            place.append(part)
            annotation = key_type(at, part)
        elif at is not None and len(list(variants(annotation))) == 1:  # else the name of one of several types
            place.append(part)
            annotation = None
    return place, annotation


def _message(model: type[Strict], name: str, annotation: Any, error: Any) -> str:
    """Return what is wrong with one key."""
    if error["type"] == "extra_forbidden":
        return _unknown(model, name)
    if error["type"] == "missing":
        if isinstance(error["loc"][-1], str):
            return f"key {name} is missing"
        count = max(len(get_args(variant)) for variant in variants(annotation))
        return f"{name}: wanted {count} entries (got {shown(error['input'])})"
    if error["type"] == "value_error":  # ours, which says what was got
        message = error["msg"].removeprefix("Value error, ")
        return f"{name}: {message}" if name else message

    got = f" (got {shown(error['input'])})"
    if error["type"] in ("model_type", "model_attributes_type", "dict_type"):
        return f"{name}: {_below(section(annotation), name, error['input'])}{got}"
    context = {
        key: value.replace("'", "") if isinstance(value, str) else value for key, value in error.get("ctx", {}).items()
    }
    wanted = WANTED.get(error["type"], error["msg"]).format(**context)
    if not name:
        return f"wanted a mapping of keys{got}"
    return f"{name}: {wanted}{got}{_hint(name, annotation, error)}"


def _unknown(model: type[Strict], name: str) -> str:
    """Return the message about an unknown key, with the nearest that there is."""
    known = known_keys(model)
    last = name.rpartition(".")[2]
    near = difflib.get_close_matches(name, known, n=1) or difflib.get_close_matches(last, known, n=1)
    # A key whose section was left out, as heigth for data.height.
    near = (
        near
        or [
            key
            for match in difflib.get_close_matches(last, [k.rpartition(".")[2] for k in known], n=1)
            for key in known
            if key.rpartition(".")[2] == match
        ][:1]
    )
    top = ", ".join(key for key in known if "." not in key)
    return f"unknown key {name}; " + (f"did you mean {near[0]}?" if near else f"valid keys: {top}")


def _below(model: type[BaseModel] | None, name: str, value: Any) -> str:
    """Return what is wanted of a key that is a section, and how to say what was probably meant."""
    if model is None:
        return "wanted keys below it"
    inputs = getattr(model, "input_keys", {})
    first = next(iter([*inputs, *model.model_fields]))
    example = f"{name}.{first}={value}" if inputs and isinstance(value, str) and value else f"{name}.{first}=..."
    without = "; leave it out for its defaults" if value is None else ""
    return f"wanted keys below it, as {example}{without}"


def _hint(name: str, annotation: Any, error: Any) -> str:
    """Return what else helps: how the key is switched off, the choice that was nearly named, or quotes."""
    value = error["input"]
    if any(value is off or (value == off and type(value) is type(off)) for off in OFF):
        if name in SWITCHES:
            return f": {SWITCHES[name]}"
        if value is not None and annotation is not None and takes_null(annotation):
            return ": null switches it off"
        if value is None and scalars(annotation) == {str}:
            return """: put quotes around the word null if it is meant, and "" for no text"""
    if error["type"] == "literal_error" and isinstance(value, str):
        choices = [choice.strip("' ") for choice in error["ctx"]["expected"].replace(" or ", ",").split(",")]
        near = difflib.get_close_matches(value, choices, n=1)
        return f": did you mean {near[0]}?" if near else ""
    return ""


def shown(value: Any) -> str:
    """Return a value as one would write it in a file."""
    return json.dumps(to_jsonable_python(value, fallback=str), ensure_ascii=False)
