# mypy: ignore-errors
"""The tour, with the client that openapi-python-client generates. The URL is the argument."""

import json
import sys
from datetime import UTC, datetime, timedelta

from client.api.accounts import open_account
from client.api.holds import place_hold
from client.api.money import deposit, post_batch, transfer
from client.models import (
    Batch,
    Deposit,
    DepositItem,
    OpenAccount,
    PlaceHold,
    Posted,
    ProblemCode,
    ProblemDetails,
    Transfer,
    TransferItem,
)
from client.models.deposit_item_type import DepositItemType
from client.models.transfer_item_type import TransferItemType

from client import Client

client = Client(base_url=sys.argv[1])
alice = open_account.sync(client=client, body=OpenAccount(owner="Alice", currency="USD"))
bob = open_account.sync(client=client, body=OpenAccount(owner="Bob", currency="USD"))

body = Deposit(account_id=alice.id, amount="100.00", idempotency_key="dep1")
assert isinstance(deposit.sync(client=client, body=body), Posted)
move = {"from_account_id": alice.id, "to_account_id": bob.id}
posted = transfer.sync(client=client, body=Transfer(**move, amount="49.99", idempotency_key="tx1"))
assert isinstance(posted, Posted)

tomorrow = datetime.now(UTC) + timedelta(days=1)
hold = PlaceHold(account_id=alice.id, amount="1.00", expires_at=tomorrow, idempotency_key="h")
held = place_hold.sync(client=client, body=hold)
assert isinstance(held, Posted)
assert held.expires_at == tomorrow

items = [
    DepositItem(
        type_=DepositItemType.DEPOSIT, account_id=bob.id, amount="1.00", idempotency_key="b1"
    ),
    TransferItem(type_=TransferItemType.TRANSFER, **move, amount="1.00", idempotency_key="b2"),
]
results = post_batch.sync(client=client, body=Batch(movements=items)).results

refused = transfer.sync(client=client, body=Transfer(**move, amount="60.00", idempotency_key="tx2"))
assert isinstance(refused, ProblemDetails)
assert refused.code is ProblemCode.INSUFFICIENT_FUNDS
answer = {
    "balance": posted.sender_new_balance,
    "batch": [result.status for result in results],
    "code": refused.code.value,
    "retry": refused.retry.value,
    "available": refused.decided_on.available,
}
print(json.dumps(answer))
