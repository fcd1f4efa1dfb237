"""What `--help` prints: it fits the terminal, its sentences are whole, and switches are written alike everywhere."""

import contextlib
import io
import itertools
import re

import pytest

from klprobe import registry
from klprobe.cli import COMMANDS, field_help, layout, main

NARROW, WIDE = 80, 120
METHODS = [name for name in registry.names("estimators") if registry.load("estimators", name).__dataclass_fields__]
METRICS = [name for name in registry.names("metrics") if registry.load("metrics", name).__dataclass_fields__]
HELPS = [
    ["--help"],
    *([command, "--help"] for command in COMMANDS),
    *(["data", command, "--help"] for command in ("list", "fetch", "show")),
    *(["synthetic", command, "--help"] for command in ("estimate", "minimize")),
    *(["train", name, "--help"] for name in registry.names("trainers")),
    ["estimate", "--help", *METHODS],
    ["evaluate", "--help", *METRICS],
]
TABLES = [["--help"], ["train", "--help"], ["data", "--help"], ["synthetic", "--help"]]
FLAG = re.compile(r"-h, --help|--[\w.-]+|PATH \.\.\.")
HINT = re.compile(r" ?\((required|optional|repeatable|default: [^)]*|(on|off) by default[^)]*)\)$")
BANNED = re.compile(
    r"^Of |^As ever|^Its |[Ii]n whose place|to the bit|nobody vouches|\baway\b|\bis none\b|: none\.|so many-th|one's own|None\)"
)


@pytest.fixture
def shown(monkeypatch):
    """The lines that the program prints on a UTF-8 terminal of so many columns, where flags stand in boxes."""

    def lines(arguments: list[str], columns: int = NARROW) -> list[str]:
        monkeypatch.setenv("COLUMNS", str(columns))
        with io.TextIOWrapper(io.BytesIO(), encoding="utf-8") as stream, contextlib.redirect_stdout(stream):
            assert main(arguments) == 0
            stream.seek(0)
            return stream.read().splitlines()

    return lines


def flags(lines: list[str]) -> dict[str, str]:
    """Each flag as it is written, with its help in one line, from the boxes of a help text."""
    found: dict[str, str] = {}
    flag = ""
    for line in (line[2:-2] for line in lines if line.startswith("│")):
        if FLAG.match(line):
            flag, _, text = line.partition("  ")
            found[flag] = text.strip()
        elif line.startswith("   "):  # the rest of a flag's help; what describes a group of flags has no margin
            found[flag] = f"{found[flag]} {line.strip()}".strip()
    return found


@pytest.mark.parametrize("arguments", HELPS, ids=" ".join)
def test_help_fits_the_terminal_and_shows_no_indentation_of_the_source(arguments, shown):
    for columns in (NARROW, WIDE):
        lines = shown(arguments, columns)
        assert max(map(len, lines)) <= columns, max(lines, key=len)
        assert not any(not here.strip() and not after.strip() for here, after in itertools.pairwise(lines))
        if arguments not in TABLES:
            about = lines[: next(i for i, line in enumerate(lines) if line.startswith("usage:"))]
            commands = [i for i, line in enumerate(about) if line.startswith("klprobe ")]
            indented = [i for i, line in enumerate(about) if line.startswith(" ")]
            assert all(any(about[j].startswith(("klprobe ", *"123456789")) for j in range(i)) for i in indented), about
            assert commands or arguments[-1] != "--help" or arguments[0] == "list", "no example of a command"


@pytest.mark.parametrize("arguments", HELPS, ids=" ".join)
def test_every_flag_has_one_spelling_and_a_whole_sentence_of_help(arguments, shown):
    found = flags(shown(arguments))
    assert found or arguments in TABLES
    for flag, text in found.items():
        assert "--no-" not in flag or "," not in flag, f"{flag} is written in two ways"
        assert not re.search(r", --\S*no-", flag)
        if flag != "-h, --help":
            sentence = HINT.sub("", text)
            assert len(sentence.split()) >= 3, (flag, text)
            assert sentence.endswith("."), (flag, text)
            assert not BANNED.search(text), (flag, text)


@pytest.mark.parametrize("arguments", HELPS, ids=" ".join)
def test_sentences_of_help_break_only_where_the_line_is_full(arguments, shown):
    """A line break of the source in mid-sentence would leave room at the line's end for the next line's first word."""
    lines = [line for line in shown(arguments) if line.startswith("│")]
    for here, after in itertools.pairwise(lines):
        text, more = here[2:-2].rstrip(), after[2:-2]
        if more.startswith("   ") and (text.startswith("   ") or "  " in text):
            assert len(text) + 1 + len(more.split()[0]) > NARROW - 4, (here, after)


def test_default_on_switches_are_offered_only_as_what_turns_them_off(shown):
    of_maf = flags(shown(["estimate", "--help", "maf"]))
    assert {"--maf.no-decay", "--maf.no-whiten"} <= set(of_maf)
    assert of_maf["--maf.no-decay"].endswith("(on by default; this flag turns it off)")
    assert "--gray" in flags(shown(["holes", "--help"]))


def test_paragraphs_join_lines_and_keep_commands_and_items(monkeypatch):
    monkeypatch.setenv("COLUMNS", "40")
    text = """One sentence that the source
        breaks here.

        klprobe a
        klprobe b

        In turns:
        1. first
        2. second, in
        two lines"""
    assert layout.paragraphs(text) == [
        "One sentence that the source breaks",
        "here.",
        "",
        "klprobe a",
        "klprobe b",
        "",
        "In turns:",
        "1. first",
        "2. second, in two lines",
    ]


def test_tables_hang_their_texts_below_one_another(monkeypatch):
    monkeypatch.setenv("COLUMNS", "40")
    rows = layout.table([("a", "word " * 10), ("longer", "end")])
    assert rows[0].startswith("  a       word")
    assert all(row.startswith(" " * 10 + "word") for row in rows[1:-1])
    assert rows[-1] == "  longer  end"


def test_a_fields_help_is_its_own_string_or_that_of_the_base_class():
    said = field_help.field_docs(registry.load("trainers", "sngan"))
    assert "\n" not in "".join(said.values())
    assert said["latent_dim"].startswith("Number of latents (Miyato")
    assert said["width"].startswith("Number of units in each hidden layer")
