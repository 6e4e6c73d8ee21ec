"""What a reader sees of a page is its text."""

import pytest

from mloc.executors.html_text import html_text


@pytest.mark.parametrize(
    ("page", "text"),
    [
        ("<html><head><title>t</title><script>var x</script></head><body><h1>Lima</h1><p>is  the <b>capital</b></p></body></html>",
         "Lima\nis the capital"),
        ("<head><title>t</title><p>a head whose end is left out</p>", "a head whose end is left out"),
        ("one<br>two &amp; three<ul><li>four<li>five</ul>the rest", "one\ntwo & three\nfour\nfive\nthe rest"),
        ("<p>seen</p><style>p {}</style><noscript>no</noscript><svg><title>circle</title><text>o</text></svg>", "seen"),
        ("", ""),
    ],
)  # fmt: skip
def test_blocks_are_lines_and_what_is_not_shown_is_left_out(page: str, text: str) -> None:
    assert html_text(page) == text
