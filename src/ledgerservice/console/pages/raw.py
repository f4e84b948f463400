"""What the API answers to the reader's session: as JSON, or a list as CSV."""

import csv
import io
import json
import re
from typing import Any

from starlette.responses import Response

from ledgerservice.console.calls import Answer
from ledgerservice.console.visits import PAGE_HEADERS, Visit

FORMAT, POLICY = "csv", "content-security-policy"
_is_number = re.compile(r"-?[0-9]+(\.[0-9]+)?").fullmatch
_FORMULA = ("=", "+", "-", "@", "\t", "\r")


async def page(visit: Visit) -> Response:
    """`/console/raw/PATH` is the answer to GET /PATH; with `as=csv` the rows of a list."""
    query = {name: value for name, value in visit.request.query_params.items() if name != "as"}
    answer = await visit.api.send("GET", visit.parameters["path"], query)
    if answer.is_good and visit.query("as") == FORMAT and isinstance(answer.body, list):
        return _csv(visit, answer)
    kind = answer.headers.get("content-type", "application/octet-stream")
    headers = PAGE_HEADERS
    if kind.startswith("text/html"):  # a statement, which has a style of its own
        headers = headers | {POLICY: answer.headers.get(POLICY, headers[POLICY])}
    return Response(answer.content, answer.status, headers, kind)


def _csv(visit: Visit, answer: Answer) -> Response:
    name = visit.parameters["path"].strip("/").replace("/", "-") or "ledger"
    headers = PAGE_HEADERS | {"content-disposition": f'attachment; filename="{_safe(name)}.csv"'}
    return Response(table(answer.body), 200, headers, "text/csv; charset=utf-8")


def _safe(name: str) -> str:
    return re.sub(r"[^A-Za-z0-9_-]", "-", name)


def table(rows: list[dict[str, Any]]) -> str:
    """Rows of the API as CSV. A text that a spreadsheet would take for a formula is quoted."""
    columns = list(dict.fromkeys(column for row in rows for column in row))
    text = io.StringIO()
    writer = csv.writer(text)
    writer.writerow(columns)
    writer.writerows([_cell(row.get(column)) for column in columns] for row in rows)
    return text.getvalue()


def _cell(value: Any) -> str:
    if value is None:
        return ""
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    is_formula = text.startswith(_FORMULA) and not _is_number(text)
    return f"'{text}" if is_formula else text
