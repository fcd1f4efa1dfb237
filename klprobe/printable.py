r"""Make text from outside, such as a file's name or text in a file, safe to print.

Control characters move the cursor of a terminal, change its colours or overwrite its text; bidirectional overrides reverse
a line; bytes that are not text cannot be written at all. All of them are shown as escapes: `\x1b`, `\u202e`.
"""

from __future__ import annotations

import difflib
import reprlib
import unicodedata
from collections.abc import Iterable

LONGEST = 120
"""Largest number of characters of a name that an error repeats."""

_repr = reprlib.Repr()
_repr.maxstring = _repr.maxother = _repr.maxlong = LONGEST


def visible(text: str, *, lines: bool = False) -> str:
    r"""Write every character that is not visible as an escape; doing so twice gives the same as once.

    Args:
        text: Any text, also with the lone surrogates of undecodable bytes (`\udcff` becomes `\xff`).
        lines: Whether to keep line ends, `\n`, for a page that klprobe wrote; a name has no line ends.
    """
    if text.isascii() and text.isprintable():
        return text
    return "".join(c if _shows(c) or (lines and c == "\n") else _escape(c) for c in text)


def short(thing: object) -> str:
    """Write the value as Python does, cut in the middle to about `LONGEST` characters, for errors."""
    return visible(_repr.repr(thing))


def nearest(name: str, known: Iterable[str], cutoff: float = 0.6) -> str | None:
    """The known name that was most likely meant, whatever its capitals and hyphens; None where none is near."""
    if len(name) > LONGEST:
        return None
    plain = {_plain(other): other for other in known}
    found = difflib.get_close_matches(_plain(name), plain, n=1, cutoff=cutoff)
    return plain[found[0]] if found else None


def _plain(name: str) -> str:
    return name.lower().replace("_", "-")


def _shows(character: str) -> bool:
    """Whether it is a letter, a sign or a space, and not a control, format (or bidirectional) or surrogate character."""
    return character.isprintable() or unicodedata.category(character) == "Zs"


def _escape(character: str) -> str:
    code = ord(character)
    if 0xDC80 <= code <= 0xDCFF:  # a byte that is not text, in Python's surrogateescape
        return f"\\x{code - 0xDC00:02x}"
    return {"\n": "\\n", "\r": "\\r", "\t": "\\t"}.get(character) or (
        f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"
    )
