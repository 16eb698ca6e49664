"""Pages for people: Jinja templates that escape every value, and the look that all pages share (`page.css`)."""

from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined, Template

from luthier.core.readable import compact, count, decimal, duration, percent

_FOLDER = Path(__file__).parent


def page_css(own: Path) -> str:
    """The shared style followed by a page's own."""
    return "\n".join(path.read_text(encoding="utf-8").rstrip() for path in (_FOLDER / "page.css", own))


def page_template(path: Path) -> Template:
    """A template that escapes every value, fails on a missing one, and knows the filters for numbers."""
    environment = Environment(
        loader=FileSystemLoader(path.parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(count=count, compact=compact, decimal=decimal, percent=percent, duration=duration)
    return environment.get_template(path.name)
