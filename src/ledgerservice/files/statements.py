"""The statements in a bank's file: OFX, MT940 and CAMT.053.

The libraries are optional (`pip install 'ledgerservice[files]'`) and imported when they are used.
There is no maintained library for CAMT.053 that adds nothing else, so its few elements are read
here, from XML without entities.
"""

import importlib
import io
from collections.abc import Callable, Iterator
from datetime import date, datetime, tzinfo
from decimal import Decimal, InvalidOperation
from typing import Any, NamedTuple

from ledgerservice.errors import ImportFault
from ledgerservice.files.options import Format, Options
from ledgerservice.installation import installing


class BankLine(NamedTuple):
    """An entry of a statement. `amount` is above zero if the account receives it.

    `date` is its value date. `id` is the bank's own, unique in the account, or empty.
    """

    amount: Decimal
    date: datetime
    description: str
    reference: str
    id: str


class Statement(NamedTuple):
    """A statement of an account. `opening` is None if the format has none."""

    name: str
    account: str
    currency: str
    opening: Decimal | None
    closing: Decimal
    lines: list[BankLine]


def read_statements(content: bytes, options: Options) -> list[Statement]:
    """The statements of a file. Raises ImportFault."""
    try:
        statements = list(_READERS[options.form](content, options))
    except ImportFault:
        raise
    except Exception as error:  # the libraries raise whatever comes
        first_line = next(iter(str(error).splitlines()), type(error).__name__)
        raise ImportFault(f"It is not valid {options.form.upper()}: {first_line}") from error
    if not statements:
        raise ImportFault(f"It has no statement in the format {options.form}.")
    return statements


def _library(name: str, extra: str) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError:
        raise ImportFault(
            f"Reading this format needs a library: run `{installing(extra)}`."
        ) from None


def _midnight(day: Any, zone: tzinfo) -> datetime:
    return datetime(day.year, day.month, day.day, tzinfo=zone)


# OFX.


def _read_ofx(content: bytes, _: Options) -> Iterator[Statement]:
    tree = _library("ofxtools.Parser", "ofx").OFXTree()
    tree.parse(io.BytesIO(content))
    convert = _library("ofxtools.models.base", "ofx").Aggregate.from_etree
    for tag in ("STMTRS", "CCSTMTRS"):
        for element in tree.getroot().iter(tag):
            yield _ofx_statement(convert(element))


def _ofx_statement(one: Any) -> Statement:
    if one.ledgerbal is None:
        raise ImportFault("It has no LEDGERBAL, the closing balance.")
    account = str(one.account.acctid)
    lines = [
        BankLine(
            Decimal(line.trnamt),
            line.dtposted,
            " ".join(filter(None, (line.name, line.memo))),
            line.refnum or line.checknum or line.fitid or "",
            line.fitid or "",
        )
        for line in one.transactions or ()
    ]
    closing = one.ledgerbal
    name = f"the statement to {closing.dtasof:%Y-%m-%d}"
    return Statement(name, account, one.curdef, None, Decimal(closing.balamt), lines)


# MT940.


def _read_mt940(content: bytes, options: Options) -> Iterator[Statement]:
    library = _library("mt940", "files")
    text = content.decode(options.encoding or "utf-8", "replace")
    # With the options the reversal of a credit (RC) is a debit.
    for one in library.parse_statements(text, options=library.Options.all()):
        yield _mt940_statement(one, options)


def _mt940_statement(one: Any, options: Options) -> Statement:
    data = one.data
    opening, closing = (
        next((data[name] for name in (f"final_{end}", f"intermediate_{end}") if name in data), None)
        for end in ("opening_balance", "closing_balance")
    )
    if opening is None or closing is None:
        raise ImportFault("A statement has no opening balance (:60:) or no closing one (:62:).")
    lines = [_mt940_line(line.data, options) for line in one]
    number = "/".join(filter(None, (data.get("statement_number"), data.get("sequence_number"))))
    name = f"statement {number} of {opening.date}"
    account = str(data.get("account_identification", ""))
    currency = str(closing.amount.currency)
    return Statement(name, account, currency, opening.amount.amount, closing.amount.amount, lines)


def _mt940_line(data: dict[str, Any], options: Options) -> BankLine:
    texts = (data.get("transaction_details"), data.get("extra_details"))
    references = (data.get("customer_reference"), data.get("bank_reference"))
    reference = next((one for one in references if one and one != "NONREF"), "")
    description = " ".join(filter(None, texts))
    date = _midnight(data["date"], options.timezone)
    return BankLine(data["amount"].amount, date, description, reference, "")


# CAMT.053.

_NAMESPACE = "urn:iso:std:iso:20022:tech:xsd:camt.053."
_OPENING, _CLOSING = ("OPBD", "PRCD"), ("CLBD",)


def _read_camt053(content: bytes, options: Options) -> Iterator[Statement]:
    trees = _library("defusedxml.ElementTree", "files")
    root = trees.fromstring(content, forbid_dtd=True)
    if _NAMESPACE not in root.tag:
        raise ImportFault(f"Its root is not in a namespace {_NAMESPACE}*.")
    for one in root.iterfind("{*}BkToCstmrStmt/{*}Stmt"):
        yield _camt053_statement(one, options)


def _camt053_statement(one: Any, options: Options) -> Statement:
    balances: dict[str, tuple[Decimal, str]] = {}
    for balance in one.iterfind("{*}Bal"):
        code = _text(balance, "{*}Tp/{*}CdOrPrtry/{*}Cd")
        balances.setdefault(code, (_signed(balance), _currency(balance)))
    opening, closing = (
        next((balances[code] for code in codes if code in balances), None)
        for codes in (_OPENING, _CLOSING)
    )
    if opening is None or closing is None:
        raise ImportFault("A statement has no opening balance (OPBD) or no closing one (CLBD).")
    booked = [entry for entry in one.iterfind("{*}Ntry") if _is_booked(entry)]
    if any(_currency(entry) != closing[1] for entry in booked):
        raise ImportFault("A statement has entries of several currencies.")
    lines = [_camt053_line(entry, options) for entry in booked]
    account = _text(one, "{*}Acct/{*}Id/{*}IBAN") or _text(one, "{*}Acct/{*}Id/{*}Othr/{*}Id")
    name = f"statement {_text(one, '{*}Id')}"
    return Statement(name, account, closing[1], opening[0], closing[0], lines)


def _is_booked(entry: Any) -> bool:
    status = _text(entry, "{*}Sts/{*}Cd") or _text(entry, "{*}Sts")
    return status == "BOOK"


def _camt053_line(entry: Any, options: Options) -> BankLine:
    remittance = entry.iterfind("{*}NtryDtls/{*}TxDtls/{*}RmtInf/{*}Ustrd")
    texts = [_text(entry, "{*}AddtlNtryInf"), *((one.text or "") for one in remittance)]
    references = (
        _text(entry, "{*}NtryDtls/{*}TxDtls/{*}Refs/{*}EndToEndId"),
        _text(entry, "{*}AcctSvcrRef"),
        _text(entry, "{*}NtryRef"),
    )
    reference = next((one for one in references if one and one != "NOTPROVIDED"), "")
    description = " ".join(filter(None, texts))
    return BankLine(_signed(entry), _camt053_date(entry, options), description, reference, "")


def _camt053_date(entry: Any, options: Options) -> datetime:
    for place in ("{*}ValDt", "{*}BookgDt"):
        if time := _text(entry, f"{place}/{{*}}DtTm"):
            parsed = datetime.fromisoformat(time)
            return parsed if parsed.tzinfo else parsed.replace(tzinfo=options.timezone)
        if day := _text(entry, f"{place}/{{*}}Dt"):
            return _midnight(date.fromisoformat(day[:10]), options.timezone)
    raise ImportFault("An entry has neither a value date nor a booking date.")


def _signed(element: Any) -> Decimal:
    text, sign = _text(element, "{*}Amt"), _text(element, "{*}CdtDbtInd")
    try:
        amount = Decimal(text)
    except InvalidOperation:
        raise ImportFault(f"{text!r} is not an amount.") from None
    if sign not in ("CRDT", "DBIT") or not amount.is_finite() or amount < 0:
        raise ImportFault("An amount has no sign (CdtDbtInd), or is below zero.")
    return amount if sign == "CRDT" else -amount


def _currency(element: Any) -> str:
    amount = element.find("{*}Amt")
    return "" if amount is None else str(amount.get("Ccy", ""))


def _text(element: Any, path: str) -> str:
    return (element.findtext(path) or "").strip()


_READERS: dict[Format, Callable[[bytes, Options], Iterator[Statement]]] = {
    Format.OFX: _read_ofx,
    Format.MT940: _read_mt940,
    Format.CAMT053: _read_camt053,
}
