"""What every page must keep for readers who cannot see, use a mouse, or tell colours apart."""

import re
from html.parser import HTMLParser
from itertools import pairwise

LEAST_CONTRAST = 4.5  # WCAG 2.2, 1.4.3, level AA
VOID = {"meta", "img", "br", "line", "link", "input", "hr"}


class Page(HTMLParser):
    """A page as nested elements: (tag, attributes, text, tags above)."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str], list[str], tuple[str, ...]]] = []
        self._open: list[int] = []
        self.feed(html)
        self.close()
        assert not self._open, "an element is not closed"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        above = tuple(self.elements[index][0] for index in self._open)
        given = {name: value or "" for name, value in attrs}
        self.elements.append((tag, given, [], above))
        if tag not in VOID and not self.get_starttag_text().endswith("/>"):  # type: ignore[union-attr]
            self._open.append(len(self.elements) - 1)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)

    def handle_endtag(self, tag: str) -> None:
        assert self.elements[self._open.pop()][0] == tag, tag

    def handle_data(self, data: str) -> None:
        for index in self._open:
            self.elements[index][2].append(data)

    def all(self, *tags: str) -> list[tuple[dict[str, str], str]]:
        return [(a, "".join(text).strip()) for tag, a, text, _ in self.elements if tag in tags]


def assert_accessible(html: str) -> None:
    """Fail with the first thing that keeps a reader out."""
    page = Page(html)
    (root,) = page.all("html")
    assert root[0]["lang"] == "en"
    assert page.all("title")[0][1]
    assert len(page.all("main")) == 1
    ids = [a["id"] for _, a, _, _ in page.elements if "id" in a]
    assert len(ids) == len(set(ids))
    for attributes, text in page.all("a"):
        assert text and attributes["href"].removeprefix("#") in ids, attributes
    _assert_headings(page)
    _assert_tables(page)
    for attributes, _ in page.all("img"):
        assert len(attributes["alt"]) > 20
    for attributes, _ in page.all("svg"):
        assert attributes["role"] == "img" and len(attributes["aria-label"]) > 20
    # A region that scrolls can be reached by the keyboard and has a name.
    for tag, attributes, _, _ in page.elements:
        if "wide" in attributes.get("class", "").split() and tag == "div":
            assert attributes["tabindex"] == "0" and attributes["role"] == "region"
            assert attributes["aria-label"]
        assert "title" not in attributes, "a text that only a mouse finds"
        for named in attributes.get("aria-labelledby", "").split():
            assert named in ids
    css = "".join(text for _, text in page.all("style"))
    assert ":hover" not in css and ":focus-visible" in css
    assert_contrast(css)


def _assert_headings(page: Page) -> None:
    levels = [int(tag[1]) for tag, _, _, _ in page.elements if re.fullmatch("h[1-6]", tag)]
    assert levels.count(1) == 1 and levels[0] == 1
    assert all(after <= before + 1 for before, after in pairwise(levels))


def _assert_tables(page: Page) -> None:
    tables, captions = page.all("table"), page.all("caption")
    assert len(tables) == len(captions)
    assert all(text for _, text in captions)
    for tag, attributes, text, above in page.elements:
        if tag == "th":
            assert attributes["scope"] == ("col" if "thead" in above else "row"), text
            assert "".join(text).strip(), "a heading without a word"


def assert_contrast(css: str) -> None:
    """Every colour of text stands out from its own rule's background, or from all of the page's."""
    names = dict(re.findall(r"--(\w+): (#[0-9a-f]{6})", css))
    seen = 0
    for body in re.findall(r"\{([^{}]*)\}", css):
        rules = dict(re.findall(r"(?:^|;)\s*(color|background): ([^;]+?)\s*(?=;|$)", body))
        if (colour := _hex(rules.get("color", ""), names)) is None:
            continue
        own = _hex(rules.get("background", ""), names)
        for background in [own] if own else ["#ffffff", names["pale"]]:
            seen += 1
            assert contrast(colour, background) >= LEAST_CONTRAST, (colour, background, body)
    assert seen >= 10


def _hex(value: str, names: dict[str, str]) -> str | None:
    if found := re.fullmatch(r"var\(--(\w+)\)", value):
        return names[found[1]]
    if re.fullmatch("#[0-9a-f]{3}", value):
        return "#" + "".join(2 * digit for digit in value[1:])
    return value if re.fullmatch("#[0-9a-f]{6}", value) else None


def contrast(one: str, other: str) -> float:
    """WCAG 2.2: (L1 + .05) / (L2 + .05) of relative luminances."""
    light, dark = sorted((_luminance(one), _luminance(other)), reverse=True)
    return (light + 0.05) / (dark + 0.05)


def _luminance(colour: str) -> float:
    parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    red, green, blue = (c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in parts)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue
