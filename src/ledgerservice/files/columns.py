"""The first line of a CSV file, which names its columns."""

from collections.abc import Iterable, Sequence

from ledgerservice.errors import ImportFault
from ledgerservice.files.options import Options

IDS = ("account_id", "from_account_id", "to_account_id")
REFERENCES = ("account_reference", "from_account_reference", "to_account_reference")
TEXTS = ("description", "reference", "owner", "idempotency_key", *REFERENCES)
COLUMNS = (
    "type",
    *IDS,
    *REFERENCES,
    "amount",
    "currency",
    "effective_at",
    "description",
    "reference",
    "metadata",
    "owner",
    "idempotency_key",
)
REJECT_COLUMNS = ("reject_line", "reject_outcome", "reject_code", "reject_detail")
"""The columns that a file of rejects has before those of the file that was imported."""

NO_KEYS = (
    "It has no idempotency_key. Add that column, or the option --key-prefix with a prefix that no "
    "other file uses."
)


def names_of(header: Sequence[str], options: Options) -> list[str]:
    """Our name of each column, empty for one that is ignored. Raises ImportFault."""
    ours = {_plain(theirs): name for name, theirs in options.columns.items()}
    headings = [_plain(cell) for cell in header]
    _refuse_repeated(headings)
    names = [ours.get(one, one) for one in headings]
    _refuse_unknown_options(options, headings)
    _refuse_repeated(names)
    ignored = {_plain(one) for one in options.ignored}
    kept = ["" if one in ignored else name for one, name in zip(headings, names, strict=True)]
    _refuse_unknown([name for name in kept if name not in (*COLUMNS, *REJECT_COLUMNS, "")], header)
    _refuse_missing(set(kept), options)
    return kept


def _plain(heading: str) -> str:
    return heading.strip().lower()


def _refuse_repeated(names: Iterable[str]) -> None:
    seen: set[str] = set()
    for name in names:
        if name in seen:
            raise ImportFault(f"Its first line names the column {name or '(empty)'} twice.")
        seen.add(name)


def _refuse_unknown_options(options: Options, headings: Iterable[str]) -> None:
    for name, theirs in options.columns.items():
        if name not in COLUMNS:
            raise ImportFault(f"--column {name}={theirs}: {name} is not one of {_list(COLUMNS)}.")
        if _plain(theirs) not in headings:
            raise ImportFault(f"Its first line does not name the column {theirs} of --column.")


def _refuse_unknown(names: Sequence[str], header: Sequence[str]) -> None:
    if not names:
        return
    if len(header) == 1 and (other := next((c for c in ";\t|" if c in header[0]), None)):
        name = "tab" if other == "\t" else f"'{other}'"
        raise ImportFault(f"Its first line has no comma: add --delimiter {name}.")
    raise ImportFault(
        f"Its first line names unknown columns: {_list(names)}. Known are {_list(COLUMNS)}. "
        "--column NAME=HEADER says what a column is, --ignore HEADER leaves it out."
    )


def _refuse_missing(names: set[str], options: Options) -> None:
    if not names.intersection(("amount", "owner")):
        raise ImportFault("Its first line does not name the column amount.")
    named = names.intersection((*IDS, *REFERENCES, "owner"))
    if not named and options.account is None:
        raise ImportFault(
            "Its first line names no account: add a column such as account_id or "
            "account_reference, or the option --account."
        )
    if "idempotency_key" not in names and options.key_prefix is None and "owner" not in names:
        raise ImportFault(NO_KEYS)


def _list(names: Iterable[str]) -> str:
    return ", ".join(names)
