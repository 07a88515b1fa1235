"""An HTML page, read for tests: its elements, and whether it is whole."""

import dataclasses
from html.parser import HTMLParser
from urllib.parse import unquote

VOID = ("meta",)


@dataclasses.dataclass
class Element:
    """An element: name, attributes, all text within, and the elements around it, outermost first."""

    name: str
    attributes: dict
    around: list
    text: str = ""

    def get(self, name):
        """An attribute, or None."""
        return self.attributes.get(name)

    @property
    def classes(self):
        """The words of its class."""
        return (self.get("class") or "").split()

    @property
    def trial(self):
        """The trial whose mark it is."""
        return None if self.get("data-t") is None else int(self.get("data-t"))


class Page(HTMLParser):
    """Fails where elements do not nest."""

    def __init__(self, text):
        super().__init__()
        self.elements, self._open = [], []
        self.feed(text)
        self.close()
        assert not self._open, f"not closed: {self._open}"

    def handle_starttag(self, tag, attrs):
        names = [name for name, _ in attrs]
        assert len(set(names)) == len(names), (tag, attrs)
        element = Element(tag, dict(attrs), list(self._open))
        self.elements.append(element)
        if tag not in VOID:
            self._open.append(element)

    def handle_startendtag(self, tag, attrs):
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self._open.pop()

    def handle_endtag(self, tag):
        assert self._open[-1].name == tag, (tag, self._open[-1])
        self._open.pop()

    def handle_data(self, data):
        for element in self._open:
            element.text += data

    def all(self, name, class_=None, within=None):
        """The elements of this name, of this class, inside of the element with this id."""
        return [
            e
            for e in self.elements
            if e.name == name
            and (class_ is None or class_ in e.classes)
            and (within is None or within in [a.get("id") for a in e.around])
        ]

    def one(self, name, class_=None, within=None):
        """The only one of them."""
        (element,) = self.all(name, class_, within)
        return element

    def check(self, directory=None):
        """Ids are unique, links lead somewhere, and nothing is loaded from elsewhere.

        Of the files below `directory`, where the page lies, any may be linked; without it, none.
        """
        ids = [e.get("id") for e in self.elements if e.get("id")]
        assert len(set(ids)) == len(ids), sorted(ids)
        for element in self.elements:
            assert element.name not in ("link", "img", "iframe", "object", "embed", "base"), element
            for name, value in element.attributes.items():
                assert not name.startswith("on"), element
                assert name not in ("src", "srcset", "xlink:href", "data"), element
                if name == "href":
                    assert element.name == "a"
                    known = ("#", "https://github.com/google-research/")
                    file = directory is not None and (directory / unquote(value)).exists()
                    assert value.startswith(known) or (file and ":" not in value), value
                    assert not value.startswith("#") or value[1:] in ids, value
                assert "url(" not in value or value.startswith("url(#clip-"), value
        (script,) = (
            e.text for e in self.all("script") if e.get("type") is None
        )  # others hold data
        style = self.one("style").text
        for text in (style, script):
            assert "http" not in text
            assert "import" not in text.replace("!important", "")
        assert "url(" not in style
        assert "fetch" not in script
