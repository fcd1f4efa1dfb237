import json

import numpy as np
import pytest

from klprobe.cli import main
from klprobe.estimation import selftest
from klprobe.estimation.known_answers import Result


@pytest.fixture
def checks(monkeypatch):
    """Two quick checks in place of all, with the given errors."""

    def put(*errors):
        made = [(f"check {i}", "nats", lambda e=e: Result(e, 1.0, np.array([e]))) for i, e in enumerate(errors)]
        monkeypatch.setattr(selftest, "all_checks", lambda: made)

    return put


def test_right_is_exit_0_and_wrong_is_exit_3_with_the_greatest_error(checks, capsys):
    checks(0.25, 0.5)
    assert main(["selftest"]) == 0
    assert "all 2 checks are right." in capsys.readouterr().out
    checks(0.25, 7.5)
    assert main(["selftest"]) == 3
    shown = capsys.readouterr().out.splitlines()
    assert [line for line in shown if "7.5" in line and line.endswith("nats: WRONG")]
    assert shown[-1].startswith("1 of 2 checks is wrong")


def test_the_document_has_checks_machine_and_digests(checks, capsys):
    checks(0.25, float("inf"))
    assert main(["selftest", "--json"]) == 3
    document = json.loads(capsys.readouterr().out)
    assert (document["schema"], document["right"]) == ("klprobe.selftest/1", False)
    assert [check["right"] for check in document["checks"]] == [True, False]
    assert {"digest", "small_digest", "arithmetic", "versions", "commit"} <= set(document)


def test_flags_that_it_does_not_have_are_refused(capsys):
    assert main(["selftest", "--quick"]) == 2
    assert "--quick" in capsys.readouterr().err
