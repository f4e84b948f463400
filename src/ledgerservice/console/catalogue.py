"""Every text of the pages, in the languages that there are."""

import json
from functools import cache
from importlib.resources import files

ENGLISH = "en"
LANGUAGES = {"en": "English", "de": "Deutsch"}
SIGNS = {"en": (",", "."), "de": (".", ",")}
"""Of a language: what groups the digits of an amount, and what stands before its decimals."""
MINUS = "\N{MINUS SIGN}"


@cache
def texts(language: str) -> dict[str, str]:
    """The texts of a language by their keys, of which each begins with the name of its file."""
    folder = files("ledgerservice.console") / "catalogues" / language
    all_texts: dict[str, str] = {}
    for file in folder.iterdir():
        if file.name.endswith(".json"):
            section = file.name.removesuffix(".json")
            for key, text in json.loads(file.read_text("utf-8")).items():
                all_texts[f"{section}.{key}"] = text
    return all_texts


class Catalogue:
    """The texts, numbers and dates of one language."""

    def __init__(self, language: str) -> None:
        self.language = language
        self._texts = texts(language)

    def __call__(self, key: str, /, **values: object) -> str:
        """The text of a key, with these values in it. A key that is missing is a fault."""
        return self._texts[key].format(**values) if values else self._texts[key]

    def word(self, section: str, name: object) -> str:
        """The text of a value of the API; the value itself if there is none."""
        return self._texts.get(f"{section}.{name}", str(name))

    def number(self, value: object) -> str:
        """A number or an exact decimal, grouped."""
        text = str(value)
        sign = MINUS if text.startswith("-") else ""
        whole, _, decimals = text.lstrip("-").partition(".")
        group, point = SIGNS[self.language]
        grouped = f"{int(whole):,}".replace(",", group) if whole.isdecimal() else whole
        return f"{sign}{grouped}{point}{decimals}" if decimals else f"{sign}{grouped}"


def language_of(chosen: str | None, accepted: str) -> str:
    """The reader's choice, or the first language of the browser that there is."""
    if chosen in LANGUAGES:
        return chosen
    for part in accepted.split(","):
        name = part.partition(";")[0].strip().lower().partition("-")[0]
        if name in LANGUAGES:
            return name
    return ENGLISH
