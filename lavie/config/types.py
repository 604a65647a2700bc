"""What the type of a key says of the values that it takes: text or numbers, a list, a section, null."""

from collections.abc import Iterator
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel

from .base import Strict


def variants(annotation: Any) -> Iterator[Any]:
    """Yield the types that an annotation joins by `|`, without what Annotated adds to them."""
    origin = get_origin(annotation)
    if origin is Annotated:
        yield from variants(get_args(annotation)[0])
    elif origin in (Union, UnionType):
        for argument in get_args(annotation):
            yield from variants(argument)
    else:
        yield annotation


def section(annotation: Any) -> type[BaseModel] | None:
    """Return the section among an annotation's variants, if there is one."""
    for variant in variants(annotation):
        if isinstance(variant, type) and issubclass(variant, BaseModel):
            return variant
    return None


def entry(annotation: Any, index: int) -> Any:
    """Return the type of entry `index` of the list among an annotation's variants; None if there is no list."""
    for variant in variants(annotation):
        if get_origin(variant) is tuple:
            arguments = get_args(variant)
            return arguments[0] if arguments[-1] is Ellipsis else arguments[min(index, len(arguments) - 1)]
    return None


def scalars(annotation: Any) -> set[Any]:
    """Return the types of single values in an annotation, those of a list's entries included: str, int, float, bool."""
    found = set()
    for variant in variants(annotation):
        if get_origin(variant) is tuple:
            found |= scalars(entry(variant, 0))
        elif get_origin(variant) is Literal:
            found |= {type(value) for value in get_args(variant)}
        elif variant in (str, int, float, bool):
            found.add(variant)
    return found


def holds_text(annotation: Any) -> bool:
    """Return whether single values of an annotation are text, and never numbers."""
    return scalars(annotation) == {str}


def takes_null(annotation: Any) -> bool:
    """Return whether null is a value of an annotation."""
    return any(variant is NoneType for variant in variants(annotation))


def key_type(model: type[BaseModel] | None, key: str) -> Any:
    """Return the annotation of one key of a section; None for an unknown key."""
    if model is None:
        return None
    if issubclass(model, Strict) and key in model.input_keys:
        return str
    field = model.model_fields.get(key)
    return None if field is None else field.annotation


def known_keys(model: type[BaseModel], prefix: str = "") -> list[str]:
    """Return the dotted names of all keys of a section and of the sections in it."""
    names = [prefix + name for name in model.input_keys] if issubclass(model, Strict) else []
    for name, field in model.model_fields.items():
        names.append(prefix + name)
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            names += known_keys(field.annotation, prefix + name + ".")
    return names
