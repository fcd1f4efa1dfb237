"""Surgery on zip files: their members, their directory, and what two readers may disagree on."""

from __future__ import annotations

import functools
import io
import random
import struct
import warnings
import zipfile
from collections.abc import Callable
from typing import NamedTuple

from tests.fuzz.payloads import text

Change = Callable[[random.Random, str, bytes], tuple[str, bytes]]
OUTSIDE = (
    "/a/MARKER",
    "../MARKER",
    "MARKER",
    "a/../../MARKER",
    "C:\\MARKER",
    "payload_module.py",
    "../payload_module.py",
)
BOMB_BYTES = 3 << 29


class Member(NamedTuple):
    """A file inside."""

    name: str
    content: bytes
    method: int = zipfile.ZIP_STORED


def unpack(content: bytes) -> list[Member]:
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        return [Member(i.filename, archive.read(i), i.compress_type) for i in archive.infolist()]


def pack(members: list[Member]) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a name twice is what is wanted
        for member in members:
            info = zipfile.ZipInfo(member.name, (1980, 1, 1, 0, 0, 0))
            info.compress_type = member.method
            archive.writestr(info, member.content)
    return out.getvalue()


@functools.cache
def zeros(method: int) -> tuple[int, bytes]:
    """BOMB_BYTES zeros, packed: their checksum and the packed bytes."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", method) as archive:
        with archive.open("x", "w", force_zip64=True) as stream:
            for _ in range(BOMB_BYTES >> 20):
                stream.write(bytes(1 << 20))
        info = archive.infolist()[0]
    start = info.header_offset + 30 + 1 + struct.unpack("<H", out.getvalue()[info.header_offset + 28 :][:2])[0]
    return info.CRC, out.getvalue()[start : start + info.compress_size]


def bomb(members: list[Member], index: int) -> bytes:
    """The archive with a member that unpacks to BOMB_BYTES zeros."""
    content = pack([*members[:index], *members[index + 1 :]])
    crc, packed = zeros(zipfile.ZIP_DEFLATED)
    name = members[index].name.encode()
    end = content.rfind(b"PK\x05\x06")
    count, size, start = struct.unpack("<HII", content[end + 10 : end + 20])
    local = (
        struct.pack("<4sHHHHHIIIHH", b"PK\x03\x04", 20, 0, 8, 0, 33, crc, len(packed), BOMB_BYTES, len(name), 0) + name + packed
    )
    about = (20, 20, 0, 8, 0, 33, crc, len(packed), BOMB_BYTES, len(name), 0, 0, 0, 0, 0, start)
    central = struct.pack("<4sHHHHHHIIIHHHHHII", b"PK\x01\x02", *about) + name
    directory = content[start : start + size] + central
    tail = struct.pack("<4sHHHHIIH", b"PK\x05\x06", 0, 0, count + 1, count + 1, len(directory), start + len(local), 0)
    return content[:start] + local + directory + tail


def change_zip(rng: random.Random, content: bytes, inside: Change) -> tuple[str, bytes]:
    """A zip file with a member, a name or its directory changed; `inside` changes a member's content."""
    members = unpack(content)
    index = rng.randrange(len(members))
    member = members[index]
    if rng.random() < 0.6:
        weights = [4 if m.name.endswith((".pkl", ".json", ".py", ".npy")) else 1 for m in members]
        index = rng.choices(range(len(members)), weights)[0]
        kind, changed = inside(rng, members[index].name, members[index].content)
        return f"zip/{kind}", pack([*members[:index], members[index]._replace(content=changed), *members[index + 1 :]])
    kind = rng.choice(
        ("twice", "case", "top", "name", "drop", "outside", "method", "bomb", "directory", "directory", "directory",
         "local", "cut", "before", "after", "comment", "two", "swap", "empty", "many")
    )  # fmt: skip
    if kind in ("directory", "local"):
        return f"zip-{kind}", _change_entry(rng, content, kind)
    if kind == "bomb":
        return "zip-bomb", bomb(members, index)
    if kind == "cut":
        end = content.rfind(b"PK\x05\x06")
        cuts = (content[:end], content[: end + 10], content[: content.find(b"PK\x01\x02")], content[:end] + content[end + 4 :])
        return "zip-cut", rng.choice(cuts)
    if kind in ("before", "after", "two"):
        more = {"before": rng.randbytes(64), "after": rng.randbytes(64), "two": content}[kind]
        return f"zip-{kind}", more + content if kind == "before" else content + more
    if kind == "comment":
        end = content.rfind(b"PK\x05\x06")
        return "zip-comment", content[: end + 20] + struct.pack(
            "<H", rng.choice((0, 5, 65535))
        ) + b"PK\x05\x06" + rng.randbytes(30)
    return f"zip-{kind}", pack(_change_members(rng, kind, members, index, member))


def _change_members(rng: random.Random, kind: str, members: list[Member], index: int, member: Member) -> list[Member]:
    top, slash, rest = member.name.partition("/")
    if kind == "twice":
        return [*members, member._replace(content=rng.choice((member.content, b"", member.content[::-1])))]
    if kind == "case":
        return [*members, member._replace(name=member.name.upper())]
    if kind == "top":
        return [m._replace(name=f"other{rng.randrange(2)}/" + m.name.partition("/")[2]) for m in members]
    if kind == "many":
        return members + [Member(f"{top}{slash}{i}", b"") for i in range(rng.choice((10, 20000)))]
    if kind == "drop":
        return members[:index] + members[index + 1 :]
    if kind == "outside":
        return [*members, Member(rng.choice(OUTSIDE), b"open('MARKER', 'w')")]
    if kind == "swap":
        other = rng.randrange(len(members))
        members[index], members[other] = member._replace(name=members[other].name), members[other]._replace(name=member.name)
        return members
    changed = {
        "name": member._replace(
            name=rng.choice((text(rng).encode("utf-8", "ignore").decode()[:60000] or "x", top + "//" + rest, rest or "x"))
        ),
        "method": member._replace(method=rng.choice((zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA))),
        "empty": member._replace(content=b""),
    }[kind]
    return [*members[:index], changed, *members[index + 1 :]]


def _change_entry(rng: random.Random, content: bytes, where: str) -> bytes:
    """One field of one entry of the directory (or of the header beside the member) with another number in it."""
    mark, fields = (b"PK\x01\x02", "4sHHHHHHIIIHHHHHII") if where == "directory" else (b"PK\x03\x04", "4sHHHHHIIIHH")
    starts, at = [], content.find(mark)
    while at >= 0:
        starts.append(at)
        at = content.find(mark, at + 4)
    start = rng.choice(starts)
    size = struct.calcsize("<" + fields)
    values = list(struct.unpack("<" + fields, content[start : start + size]))
    index = rng.randrange(1, len(values))
    most = 65535 if fields[index + 1] == "H" else 2**32 - 1  # the format's first letter is the length of the mark
    old = values[index]
    values[index] = (
        rng.choice((0, 1, 8, 9, 12, 14, 99, most, most - 1, old + 1, max(0, old - 1), old * 2, rng.randrange(most))) & most
    )
    return content[:start] + struct.pack("<" + fields, *values) + content[start + size :]
