"""What all HTML pages share: one file that loads nothing, escapes what it shows, and draws for light and dark pages."""

from __future__ import annotations

import json
from collections.abc import Mapping
from importlib.resources import files as package_files
from typing import Any

import jinja2
from markupsafe import Markup
from plotly.offline import get_plotlyjs

from ..printable import printable
from .sections import ALONE

_PACKAGE = (__package__ or "").rpartition(".")[0]


def render(template: str, *, figures: Mapping[str, Mapping[str, Any]], **values: Any) -> str:
    """Fill a template; every value is escaped unless it is `Markup`.

    Args:
        template: Its place in the package, such as `analysis/page.html`. It extends `analysis/base.html`.
        figures: By the id of their element, each twice: for light and for dark pages.
        **values: What the template names; a name that is missing is an error.
    """
    environment = jinja2.Environment(
        loader=jinja2.FunctionLoader(_read),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
        finalize=_shown,
    )
    return environment.get_template(template).render(
        figures=_script_json(figures), plotlyjs=Markup(get_plotlyjs()), alone=ALONE, **values
    )


def _shown(value: object) -> object:
    """Write out what a page would obey or hide in foreign text; markup was made of texts for which this is done."""
    return printable(value) if isinstance(value, str) and not isinstance(value, Markup) else value


def _read(name: str) -> str | None:
    path = package_files(_PACKAGE).joinpath(name)
    return path.read_text(encoding="utf-8") if path.is_file() else None


def _script_json(value: object) -> Markup:
    """Write JSON that cannot end the script element it stands in."""
    text = json.dumps(value, separators=(",", ":"), ensure_ascii=True, allow_nan=False)
    return Markup(text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026"))
