"""Records to what people read: terminal table, JSON, CSV, figures, one self-contained HTML page."""

from klprobe.report.document import Report

__all__ = ["Report"]
