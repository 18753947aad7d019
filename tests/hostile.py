"""Text that a model or a data set may hold to break a report: markup, links, tables, characters that can't be seen."""

from __future__ import annotations

import re
import unicodedata

# Each is what a model may say or a data set may hold.
HOSTILE = {
    "script": "<script>alert(1)</script>",
    "image": '<img src=x onerror="alert(1)">',
    "unclosed tag": "</td></tr></table><div",
    "HTML comment": "<!-- the rest of the page is hidden",
    "entity": "&lt;script&gt; &amp; &#60;b&#62; &nbsp;",
    "link": "[click](javascript:alert(1))",
    "end of a link": "](javascript:alert(1))",
    "picture": "![x](https://evil.example/track.png)",
    "reference": "[1]: https://evil.example\n\n[1]",
    "footnote": "[^1] and [^1]: note",
    "autolink": "<https://evil.example>",
    "bare address": "https://evil.example/?q=1 HTTP://EVIL.EXAMPLE ftp://evil.example www.evil.example",
    "mail": "mailto:a@evil.example and a@evil.example",
    "script address": "javascript:alert(1) data:text/html,<b>x</b>",
    "mention": "@torvalds @org/team #1 GH-1",
    "pipes": "a | b || c |",
    "escaped pipe": "a \\| b \\\\| c",
    "backslashes": "\\\\ \\` \\[ \\<",
    "backticks": "`code` ``more`` ```\nfence\n```",
    "unclosed backtick": "` | the rest of the row is code",
    "tildes": "~~~\nfence\n~~~ ~~gone~~",
    "newlines": "one\ntwo\r\nthree\rfour\n\nfive\n",
    "table": "\n| a | b |\n| --- | --- |\n| 1 | 2 |\n",
    "heading": "\n# Results\n\nAll better\n===\n---\n",
    "quote and lists": "\n> quoted\n* one\n- two\n1. three\n    code\n",
    "emphasis": "*a* **b** _c_ __d__ ***e***",
    "mathematics": "$x$ $$y$$ $`z`$",
    "emoji name": ":tada:",
    "right to left": "\u202eevil\u202c \u2067x\u2069 \u200f\u061c",
    "zero width": "a\u200bb\u200dc\ufeffd\u00ade\u2060f",
    "line separators": "a\u2028b\u2029c\u0085d\x0be\x0cf",
    "NUL and controls": "a\x00b\x1b[31mred\x1b[0m\x07\x7f",
    "lone surrogates": "a\ud800b\udfff",
    "spaces": "   \t   ",
    "nothing": "",
    "uzbek": "oʻzbek gʻisht maʼno — ўзбек ғишт",
}


def visible(text: str) -> str:
    """What a reader should see: characters that can't be seen are named, the rest stays."""
    seen = []
    for character in re.sub(r"\r\n?", "\n", text).strip():
        hidden = unicodedata.category(character) in ("Cc", "Cf", "Cs", "Zl", "Zp") and character not in "\n\t"
        seen.append(f"⟨U+{ord(character):04X}⟩" if hidden else character)
    return "".join(seen)
