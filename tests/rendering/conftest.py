"""Kinds of reports, their figures, and a browser to open pages in."""

import html
import json
import re
import shutil
import subprocess
from functools import cache

import pytest

from klprobe.rendering.figures import draw
from tests.reports import CASES, any_report, name, report_of

__all__ = ["any_report", "name", "report_of"]

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
PROBE = """<script>
const refused = [];
document.addEventListener("securitypolicyviolation", (event) => refused.push(event.blockedURI));
addEventListener("load", () => {
  const images = [...document.images];
  document.querySelectorAll("details").forEach((d) => { d.open = true; });
  document.body.dataset.found = JSON.stringify({
    images: images.length,
    loaded: images.filter((i) => i.complete && i.naturalWidth > 100).length,
    requests: performance.getEntriesByType("resource").map((r) => r.name).filter((n) => !n.startsWith("data:")),
    refused,
    overflow: document.documentElement.scrollWidth - innerWidth,
  });
});
</script>"""


@pytest.fixture(scope="session")
def plots_of():
    """Its figures, drawn once."""
    return cache(lambda name: draw(CASES[name]()))


@pytest.fixture
def in_browser(tmp_path):
    """Open a page in a real browser: it must load every figure, ask for nothing, and fit the window."""
    if CHROMIUM is None:
        pytest.skip("no chromium on this machine to open the page in")

    def check(text, figures, width):
        text = text.replace("default-src 'none'", "default-src 'none'; script-src 'unsafe-inline'")
        (tmp_path / "page.html").write_text(text.replace("</head>", PROBE + "</head>"), encoding="utf-8")
        flags = (
            "--headless --no-sandbox --disable-gpu --disable-background-networking --no-first-run --disable-component-update "
            f"--disable-sync --enable-logging=stderr --virtual-time-budget=5000 --window-size={width},2000 --dump-dom"
        )
        where = [f"--user-data-dir={tmp_path / 'profile'}", (tmp_path / "page.html").as_uri()]
        ran = subprocess.run([CHROMIUM, *flags.split(), *where], capture_output=True, timeout=120, check=True)
        dom, said = ran.stdout.decode(), ran.stderr.decode()
        found = json.loads(html.unescape(re.search(r'data-found="([^"]*)"', dom)[1]))
        assert found == {"images": figures, "loaded": figures, "requests": [], "refused": [], "overflow": found["overflow"]}
        assert found["overflow"] <= 0
        assert "CONSOLE" not in said

    return check
