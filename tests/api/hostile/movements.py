"""Requests to the money routes, good and bad ones, for two accounts with the ids 1 and 2."""

import json

JSON = {"Content-Type": "application/json"}
GOOD = {"account_id": 1, "amount": "5.00", "idempotency_key": "k"}
MOVE = {"from_account_id": 1, "to_account_id": 2, "amount": 1, "idempotency_key": "t"}

REQUESTS: dict[str, tuple[str, dict[str, str], str | bytes]] = {
    "a deposit": ("/deposit/", JSON, json.dumps(GOOD)),
    "a withdrawal": ("/withdraw", JSON, json.dumps(GOOD | {"idempotency_key": "w"})),
    "a transfer": ("/transfer/", JSON, json.dumps(MOVE)),
    "a decline": ("/withdraw/", JSON, json.dumps(GOOD | {"amount": 10**6, "idempotency_key": "x"})),
    "a key in the header": (
        "/deposit",
        {**JSON, "Idempotency-Key": "h"},
        '{"account_id": 1, "amount": 5}',
    ),
    "two keys": ("/deposit/", {**JSON, "Idempotency-Key": "h"}, json.dumps(GOOD)),
    "a key reused": ("/deposit/", JSON, json.dumps(GOOD | {"amount": 6})),
    "no key": ("/deposit/", JSON, '{"account_id": 1, "amount": 5}'),
    "an unknown account": ("/deposit/", JSON, json.dumps(GOOD | {"account_id": 77})),
    "no body": ("/deposit/", JSON, ""),
    "not JSON": ("/transfer", JSON, "{"),
    "no number": ("/transfer", JSON, '{"from_account_id": NaN}'),
    "a field twice": ("/deposit", JSON, '{"account_id": 1, "account_id": 1}'),
    "an unknown field": ("/deposit", JSON, json.dumps(GOOD | {"x": 1})),
    "deep nesting": ("/deposit", JSON, "[" * 30_000),
    "not UTF-8": ("/deposit", JSON, b"\xff\xfe"),
    "too large": ("/deposit", JSON, "x" * 65_537),
    "another media type": ("/deposit", {"Content-Type": "text/plain"}, json.dumps(GOOD)),
    "no media type": ("/deposit", {}, json.dumps(GOOD).encode()),
    "a declared length that lies": ("/deposit", {**JSON, "Content-Length": "99999999"}, "{}"),
}
