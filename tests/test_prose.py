"""House style: sentences of the documentation are short."""

import re
from pathlib import Path
from statistics import median, quantiles

import pytest

ROOT = Path(__file__).parents[1]
PAGES = {path.relative_to(ROOT).as_posix(): path.read_text() for path in sorted((ROOT / "docs").rglob("*.md"))}
PAGES |= {name: (ROOT / name).read_text() for name in ("README.md", "CONTRIBUTING.md")}
MEDIAN, NINE_IN_TEN = 16, 30
"""Words of a sentence: half of them have at most so many, and nine in ten at most so many."""
ENOUGH = 20
"""Sentences of a page, from which on its own nine in ten are looked at."""


def paragraphs(text):
    """The prose of a page: no headings, tables, code or pictures; an item of a list is a paragraph of its own."""
    text = re.sub(r"<!-- made by.*?<!-- end of what is made -->|<!--.*?-->", "", text, flags=re.DOTALL)
    text = re.sub(r"^```.*?^```$", "\n", text, flags=re.MULTILINE | re.DOTALL)
    text = re.sub(r"^\s*(?:[-*]|\d+\.) ", "\n\n", text, flags=re.MULTILINE)
    for part in re.split(r"\n\s*\n", text):
        lines = [line for line in part.strip("\n").splitlines() if not line.startswith(("#", "|", "    ", "![", ":::"))]
        if lines:
            yield " ".join(line.strip() for line in lines)


def lengths(text):
    """How many words each sentence of a page has; a piece of code is one word."""
    found = []
    for paragraph in paragraphs(text):
        plain = re.sub(r"`[^`]*`", "Code", paragraph)
        plain = re.sub(r"!?\[([^\]]*)\]\([^)]*\)", r"\1", plain)
        plain = re.sub(r"\bet al\.", "et al", plain.replace("**", ""))
        sentences = re.split(r"(?<=[.!?])[)\"]?\s+(?=[A-Z0-9(\"ℓ])", plain)
        found += [len(re.findall(r"\S*\w\S*", sentence)) for sentence in sentences if re.search(r"\w", sentence)]
    return found


def test_sentences_are_found_and_counted():
    text = "# No\n\n```sh\nno no\n```\n\n| no | no |\n\n"
    text += "One two. Three `a b` four:\n\n- five six seven\n\nEight (nine). Ten.\n"
    assert lengths(text) == [2, 3, 3, 2, 1]


def test_sentences_of_all_pages_together_are_short():
    found = [length for text in PAGES.values() for length in lengths(text)]
    assert len(found) > 1500
    assert median(found) <= MEDIAN
    assert quantiles(found, n=10)[-1] <= NINE_IN_TEN


@pytest.mark.parametrize("page", [page for page, text in PAGES.items() if len(lengths(text)) >= ENOUGH])
def test_nine_in_ten_sentences_of_a_page_are_short(page):
    assert quantiles(lengths(PAGES[page]), n=10)[-1] <= NINE_IN_TEN
