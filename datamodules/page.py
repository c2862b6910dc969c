"""What the project's HTML pages share: one file each that needs nothing else, light and dark, the same for the same input."""

import re
from collections.abc import Mapping
from importlib.resources import files
from io import StringIO
from typing import TYPE_CHECKING, Any

from jinja2 import Environment, StrictUndefined
from markupsafe import Markup, escape

if TYPE_CHECKING:
    from matplotlib.figure import Figure

STYLE = Markup(files("datamodules").joinpath("page.css").read_text(encoding="utf-8"))  # noqa: S704 - our own
"""The style sheet that all pages have."""


def render(package: str, template: str, **values: Any) -> str:  # noqa: ANN401
    """A page from a template of a package; whatever isn't `Markup` is escaped."""
    source = files(package).joinpath(template).read_text(encoding="utf-8")
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    return environment.from_string(source).render(style=STYLE, **values)


def inline_svg(figure: "Figure", name: str, label: str, colours: Mapping[str, str]) -> Markup:
    """A figure as an element of a page, in the page's own font and colours.

    Args:
        figure: Text takes the page's colour unless it has one of ``colours``.
        name: Of letters, digits and hyphens, and no other figure's on the page: it begins the ids within.
        label: The figure in words, for those who don't see it.
        colours: Colours of the figure, ``#rrggbb`` in small letters -> what CSS calls them on the page.
    """
    import matplotlib as mpl

    file = StringIO()
    with mpl.rc_context({"svg.fonttype": "none", "svg.hashsalt": name}):
        figure.savefig(file, format="svg", transparent=True, metadata=dict.fromkeys(("Creator", "Date", "Format", "Type")))
    text = file.getvalue()
    width, height = re.search(r'viewBox="0 0 ([\d.]+) ([\d.]+)"', text).groups()  # type: ignore[union-attr]
    inner = text[text.index(">", text.index("<svg")) + 1 :]
    inner = re.sub(r"<metadata>.*?</metadata>", "", inner, flags=re.DOTALL)
    inner = re.sub(r'\bid="', f'id="{name}-', inner)
    inner = re.sub(r'(?:xlink:)?href="#', f'href="#{name}-', inner).replace("url(#", f"url(#{name}-")
    for colour, css in colours.items():
        inner = inner.replace(colour, css)
    return Markup(f'<svg viewBox="0 0 {width} {height}" role="img" aria-label="{escape(label)}">{inner}')  # noqa: S704
