"""A page in headless Chromium: what a script sees in it, and what the browser complains of."""

import json
import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

FLAGS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--enable-logging=stderr",
    "--hide-scrollbars",
]

# Before anything of the page: what goes wrong in it is collected.
_WATCH = """<script>
window.wrong = [];
addEventListener("error", (event) => wrong.push(String(event.message)), true);
addEventListener("securitypolicyviolation", (event) => wrong.push(`${event.violatedDirective} ${event.blockedURI}`));
</script>"""

# After all of it: the probe is run, and what it returns is sent to the page around, whose DOM is dumped.
_TELL = """<script>
addEventListener("load", () => {
  const seen = (PROBE)();
  const requests = performance.getEntriesByType("resource").map((entry) => entry.name);
  parent.postMessage(JSON.stringify({seen, requests, wrong, width: innerWidth}), "*");
});
</script>"""

# The window of headless Chromium is never narrower than 500 pixels; a frame is as narrow as a telephone.
_AROUND = """<!DOCTYPE html><meta charset="utf-8"><body><pre id="told"></pre><script>
addEventListener("message", (event) => document.getElementById("told").textContent = encodeURIComponent(event.data));
</script><iframe src="probed.html" style="border:0;width:WIDTHpx;height:900px"></iframe>"""


@dataclass(frozen=True)
class Visit:
    """What was seen of a page."""

    seen: Any  # what the probe returned
    requests: list[str]  # what the page asked the network for
    wrong: list[str]  # errors of its scripts, and what its policy forbade
    console: list[str]  # what the browser said of it
    width: int


def chromium() -> str:
    """Return the browser; skip where there is none."""
    found = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if found is None:
        pytest.skip("no chromium here to look at the page with")
    return found


def visit(page: Path, folder: Path, width: int, probe: str) -> Visit:
    """Open a copy of a page so many pixels wide, and run a probe in it, a function in JavaScript."""
    browser, html = chromium(), page.read_text(encoding="utf-8")
    folder.mkdir()
    probed = html.replace("<head>", f"<head>{_WATCH}", 1).replace(
        "</body>", f"{_TELL.replace('PROBE', probe)}</body>"
    )
    (folder / "probed.html").write_text(probed, encoding="utf-8")
    (folder / "around.html").write_text(_AROUND.replace("WIDTH", str(width)), encoding="utf-8")
    flags = [*FLAGS, f"--user-data-dir={folder / 'profile'}", "--window-size=1400,1000", "--virtual-time-budget=5000"]
    command = [browser, *flags, "--dump-dom", (folder / "around.html").as_uri()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    told = re.search(r'<pre id="told">([^<]+)</pre>', done.stdout)
    assert told, done.stderr[-2000:]
    from urllib.parse import unquote

    console = re.findall(r'CONSOLE[^"]*"(.*)', done.stderr)
    return Visit(**json.loads(unquote(told[1])), console=console)
