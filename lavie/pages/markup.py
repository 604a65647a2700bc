"""HTML put together from elements, in which whatever is not markup itself is escaped; and a page's policy of hashes."""

import hashlib
from base64 import b64encode
from html import escape


class Markup(str):
    """Text that is HTML already."""

    __slots__ = ()


Content = str | None
"""What an element holds: text, which is escaped, `Markup`, which is not, or None, which is left out."""
EMPTY_ELEMENTS = ("br", "circle", "img", "input", "line", "path", "polyline", "rect", "use")
"""Elements without an end tag here."""


def element(name: str, *content: Content, **attributes: str | float | bool | None) -> Markup:
    """Return an element.

    Args:
        name: as "figure".
        content: what it holds, in order.
        attributes: by name, with _ for - and without a _ at the end (`class_`); True is an attribute without a value,
            and those that are None or False are left out.
    """
    shown = ""
    for key, value in attributes.items():
        if value is None or value is False:
            continue
        # SVG's own names have capitals and no dash, so that this is the only change.
        shown += f" {key.rstrip('_').replace('_', '-')}"
        if value is not True:
            shown += f'="{escape(value if isinstance(value, str) else f"{value:g}")}"'
    if name in EMPTY_ELEMENTS:
        return Markup(f"<{name}{shown}>" if name in ("br", "img", "input") else f"<{name}{shown}/>")
    return Markup(f"<{name}{shown}>{join(*content)}</{name}>")


def join(*content: Content) -> Markup:
    """Return contents one after the other, text escaped."""
    return Markup("".join(part if isinstance(part, Markup) else escape(part) for part in content if part is not None))


def source_hash(text: str) -> str:
    """Return the source by which a Content-Security-Policy allows an element's text, quotes included."""
    return f"'sha256-{b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


def hashed_policy(script: str, style: str, *sources: str) -> str:
    """Return the policy (CSP) of a page that holds its script and style; `sources`: what else it may load."""
    return "; ".join(
        (
            "default-src 'none'",
            f"script-src {source_hash(script)}",
            f"style-src {source_hash(style)}",
            *sources,
            "base-uri 'none'",
            "form-action 'none'",
        )
    )
