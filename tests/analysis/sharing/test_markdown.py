"""Texts of unknown origin in a model card are nothing but text."""

from __future__ import annotations

import pytest

from pyro_compvae.analysis.sharing.markdown import Markdown, block, code, line


@pytest.mark.parametrize(
    ("text", "written"),
    [
        ("iodine-sprites-lnms-seed0", "iodine-sprites-lnms-seed0"),
        ("2.13.0+cpu", "2.13.0+cpu"),
        ("# heading", r"\# heading"),
        ("a\n\n# heading", r"a \# heading"),
        ("[click](http://evil)", r"\[click\](http://evil)"),
        ("![](http://evil/x.png)", r"!\[\](http://evil/x.png)"),
        ("<script>alert(1)</script>", r"\<script\>alert(1)\</script\>"),
        ("a | b", r"a \| b"),
        ("- item", r"\- item"),
        ("1. item", r"1\. item"),
        ("---", r"\---"),
        ("`a` *b* __c__ ~~d~~ $e$ &amp;", r"\`a\` \*b\* \_\_c\_\_ \~\~d\~\~ \$e\$ \&amp;"),
        ("\\# heading", r"\\\# heading"),
        ("\x1b[2J\u202ea", r"\\x1b\[2J\\u202ea"),
    ],
)
def test_a_line(text: str, written: str) -> None:
    assert line(text) == written


def test_what_is_markdown_or_no_text_stays() -> None:
    assert line(Markdown("# ours")) == "# ours"
    assert line(3) == 3


@pytest.mark.parametrize(
    ("text", "written"),
    [("a b", "`a b`"), ("a`b", "``a`b``"), ("`", "`` ` ``"), ("a\n\nb", "`a b`"), ("", "` `"), ("a|b", r"`a\|b`")],
)
def test_code(text: str, written: str) -> None:
    assert code(text) == written


def test_a_block_is_not_ended_by_its_text() -> None:
    assert block(["a", "b"]) == "```\na\nb\n```"
    assert block(["```", "# heading\n````"]) == "`````\n```\n# heading ````\n`````"
