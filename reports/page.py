"""One HTML document that holds all it needs: no network, no inline handlers, and a policy that forbids both.

    page("tuned against base", "<h1>…</h1>" + table(["task"], [[text(name)]]))

What is inside `body` is taken as it is; whatever comes from a model or a data set goes through `text` first. The
style is page.css and plots.css, the script page.js; a Content-Security-Policy names them by their hashes, so that
nothing else runs (https://www.w3.org/TR/CSP3/). The policy forbids `style="…"` and `on…="…"`: classes only.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from reports.format import Writer, visible

STYLES = ("page.css", "plots.css")
SCRIPT = "page.js"

_HTML = {ord("&"): "&amp;", ord("<"): "&lt;", ord(">"): "&gt;", ord('"'): "&quot;", ord("'"): "&#39;"}
# What ends a script element or a line of JavaScript, and what UTF-8 can't hold. In JSON these stand in strings only.
_UNSAFE_JSON = re.compile("[<>&\u2028\u2029\ud800-\udfff]")


def page(title: str, body: str, *, data: Mapping[str, Any] | None = None, script: bool = False) -> str:
    """A whole HTML document.

    title: plain text, escaped here. body: safe HTML. data: JSON values for the script, in the element #data; any
    text may be in it. script: whether page.js runs.
    """
    style = "".join(_asset(name) for name in STYLES)
    code = _asset(SCRIPT) if script else ""
    policy = (
        f"default-src 'none'; style-src {_source(style)}; script-src {_source(code)}; img-src data:; "
        "base-uri 'none'; form-action 'none'"
    )
    parts = [
        "<!doctype html>",
        '<html lang="en">',
        "<head>",
        '<meta charset="utf-8">',
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">',
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        '<meta name="color-scheme" content="light dark">',
        '<meta name="referrer" content="no-referrer">',
        f"<title>{text(title)}</title>",
        # Without one, a browser asks the server for favicon.ico.
        '<link rel="icon" href="data:,">',
        f"<style>{style}</style>",
        "</head>",
        "<body>",
        f"<main>\n{body}\n</main>",
    ]
    if data is not None:
        parts.append(f'<script type="application/json" id="data">{embedded(data)}</script>')
    if code:
        parts.append(f"<script>{code}</script>")
    return "\n".join([*parts, "</body>", "</html>", ""])


def text(untrusted: str, limit: int | None = None) -> str:
    """Untrusted text for HTML or SVG, between tags or in a quoted attribute: nothing in it is markup.

    limit: characters of the text that are shown. Invisible and direction-changing characters are named.
    """
    return visible(untrusted, limit).translate(_HTML)


def embedded(data: Any) -> str:
    """JSON that can stand in a script element: no `<`, `>` or `&`, and no lone surrogate.

    Raises ValueError for NaN and infinity.
    """
    written = json.dumps(data, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    return _UNSAFE_JSON.sub(lambda found: f"\\u{ord(found[0]):04x}", written)


def table(header: Sequence[str], rows: Sequence[Sequence[str]], align: str = "") -> str:
    """A table in a box of its own that scrolls where the screen is narrow; cells are safe HTML.

    align: one of l, r a column, l where it is short. The first cell of a row is its heading.
    """
    marks = ["" if mark == "l" else ' class="r"' for mark in align.ljust(len(header), "l")]
    head = "".join(f'<th scope="col"{mark}>{cell}</th>' for mark, cell in zip(marks, header, strict=True))
    lines = []
    for row in rows:
        first, *rest = zip(marks, row, strict=True)
        cells = [f'<th scope="row"{first[0]}>{first[1]}</th>', *(f"<td{mark}>{cell}</td>" for mark, cell in rest)]
        lines.append(f"<tr>{''.join(cells)}</tr>")
    body = "\n".join(lines)
    # A box that scrolls must be reachable by keyboard.
    return (
        '<div class="scroll" tabindex="0" role="group" aria-label="table">\n'
        f"<table>\n<thead><tr>{head}</tr></thead>\n<tbody>\n{body}\n</tbody>\n</table>\n</div>\n"
    )


HTML = Writer(
    text=text,
    strong=lambda safe: f"<strong>{safe}</strong>",
    paragraph=lambda safe: f"<p>{safe}</p>\n",
    code=lambda safe: f"<code>{safe}</code>",
    verdict=lambda verdict: f'<span class="verdict {text(verdict)}">{text(verdict)}</span>',
    table=table,
)


@cache
def _asset(name: str) -> str:
    return (Path(__file__).parent / name).read_text(encoding="utf-8")


def _source(inline: str) -> str:
    """What a policy says of one inline style or script: its hash, or that there is none."""
    if not inline:
        return "'none'"
    return f"'sha256-{base64.b64encode(hashlib.sha256(inline.encode()).digest()).decode()}'"
