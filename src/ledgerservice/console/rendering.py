"""The templates, and how amounts, times and ids look in them."""

from datetime import datetime
from functools import cache
from typing import Any
from zoneinfo import ZoneInfo

import jinja2
from jinja2 import pass_context
from jinja2.runtime import Context
from markupsafe import Markup, escape

from ledgerservice.console.assets import path_of
from ledgerservice.console.catalogue import Catalogue

NOTHING = Markup('<span class="none">&ndash;</span>')
MONTHS = {
    "en": "Jan Feb Mar Apr May Jun Jul Aug Sep Oct Nov Dec",
    "de": "Jan. Feb. März Apr. Mai Juni Juli Aug. Sept. Okt. Nov. Dez.",
}
DAYS = {"en": "{day} {month} {year}", "de": "{day}. {month} {year}"}


@cache
def _environment() -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("ledgerservice.console"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"amount": amount, "time": time, "number": number, "code": code}
    environment.globals |= {"asset": path_of}
    return environment


def rendered(template: str, **values: Any) -> str:
    """A page."""
    return _environment().get_template(template).render(**values)


@pass_context
def amount(context: Context, value: str | None, currency: str = "") -> Markup:
    """An exact amount of the API, grouped, with its currency beside it."""
    if value is None:
        return NOTHING
    catalogue: Catalogue = context["t"]
    tone = "negative" if value.startswith("-") else "positive"
    text = Markup('<data class="amount {}" value="{}">{}</data>').format(
        tone, value, catalogue.number(value)
    )
    if not currency:
        return text
    return text + Markup('<span class="currency">{}</span>').format(currency)


@pass_context
def number(context: Context, value: object) -> Markup:
    """A count, grouped."""
    catalogue: Catalogue = context["t"]
    return Markup('<data class="number" value="{}">{}</data>').format(
        value, catalogue.number(value)
    )


@pass_context
def time(context: Context, value: str | None, form: str = "minute") -> Markup:
    """A timestamp in the reader's zone; the exact one in UTC is its title.

    `form`: day, minute or second.
    """
    if not value:
        return NOTHING
    catalogue: Catalogue = context["t"]
    zone = context["visit"].zone
    local = datetime.fromisoformat(value).astimezone(ZoneInfo(zone))
    return Markup('<time datetime="{}" title="{}" data-form="{}" data-zone="{}">{}</time>').format(
        value,
        value.replace("T", " ").replace("Z", " UTC"),
        form,
        zone,
        local_text(local, form, catalogue.language),
    )


def local_text(local: datetime, form: str, language: str) -> str:
    """A time as a reader of this language writes it."""
    month = MONTHS[language].split()[local.month - 1]
    day = DAYS[language].format(day=local.day, month=month, year=local.year)
    if form == "day":
        return day
    return f"{day}, {local:%H:%M:%S}" if form == "second" else f"{day}, {local:%H:%M}"


def code(text: object) -> Markup:
    """A word of the API with places at which it may break."""
    return Markup(str(escape(text)).replace("_", "_<wbr>"))  # noqa: S704  (it is escaped)
