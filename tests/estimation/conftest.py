"""Kinds of reports, which `tests/rendering` shows."""

from tests.reports import any_report, name, report_of

__all__ = ["any_report", "name", "report_of"]
