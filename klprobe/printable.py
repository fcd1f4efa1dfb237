r"""Text from outside, such as a file's name or what a file says of itself, made fit to be shown.

Control characters move the cursor of a terminal, recolour it or write over what stands there; bidirectional overrides turn
a line round; bytes that are no text cannot be written at all. All of them are shown as what they are: `\x1b`, `\u202e`.
"""

from __future__ import annotations

import difflib
import reprlib
import unicodedata
from collections.abc import Iterable

LONGEST = 120
"""Characters of a name that an error repeats, at most."""

_repr = reprlib.Repr()
_repr.maxstring = _repr.maxother = _repr.maxlong = LONGEST


def visible(text: str, *, lines: bool = False) -> str:
    r"""The text with every character that shows nothing of itself written as an escape; twice is as good as once.

    Args:
        text: Anything, also with the lone surrogates that stand for undecodable bytes (`\udcff` becomes `\xff`).
        lines: Keep line ends, `\n`: the text is a page that klprobe wrote. A name has no line ends.
    """
    if text.isascii() and text.isprintable():
        return text
    return "".join(c if _shows(c) or (lines and c == "\n") else _escape(c) for c in text)


def short(thing: object) -> str:
    """The thing as Python writes it, cut in the middle to about `LONGEST` characters: what an error says was given."""
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
    """Whether it is a letter, a sign or a space, and neither control, format (bidirectional ones too) nor surrogate."""
    return character.isprintable() or unicodedata.category(character) == "Zs"


def _escape(character: str) -> str:
    code = ord(character)
    if 0xDC80 <= code <= 0xDCFF:  # a byte that is no text, as Python's surrogateescape has it
        return f"\\x{code - 0xDC00:02x}"
    return {"\n": "\\n", "\r": "\\r", "\t": "\\t"}.get(character) or (
        f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"
    )
