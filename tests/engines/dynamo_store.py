"""DynamoDB's interface as a target, read by requests of a reader's own."""

from collections.abc import Iterator
from typing import Any

from tests.engines.servers import Dynalite
from tests.engines.stores import Balance, EntryRow, State, Store


class DynamoStore(Store):
    """A table of its own."""

    def __init__(self, engine: Dynalite, table: str) -> None:
        self.engine: Dynalite = engine
        self.table = table
        self.url = f"dynamodb://any:any@eu-central-1/{table}?endpoint=http://{engine.address}"

    def state(self, epoch: int = 1) -> State:
        entries: list[EntryRow] = []
        balances: dict[tuple[int, int], Balance] = {}
        for item in self.items():
            parts = item["pk"]["S"].split("#")
            if parts[0] != str(epoch):
                continue
            account = int(parts[1]), int(parts[2])
            if item["sk"]["S"] == "head":
                balances[account] = Balance(*_numbers(item, Balance._fields))
            else:
                entries.append(EntryRow(*account, *_numbers(item, EntryRow._fields[2:])))
        return State(sorted(entries), balances)

    def items(self) -> Iterator[Any]:
        client = self.engine.client()
        if self.table not in client.list_tables()["TableNames"]:
            return
        for page in client.get_paginator("scan").paginate(TableName=self.table):
            yield from page["Items"]

    def forget_position(self) -> None:
        keys = [item for item in self.items() if item["pk"]["S"] == "position"]
        for item in keys:
            self._delete(item["pk"]["S"], item["sk"]["S"])

    def _delete(self, pk: str, sk: str) -> None:
        key = {"pk": {"S": pk}, "sk": {"S": sk}}
        self.engine.client().delete_item(TableName=self.table, Key=key)

    def remove_row(self, account: int, version: int) -> None:
        self._delete(f"1#1#{account}#{version // 1000}", f"{version:019}")

    def change_row(self, account: int, version: int, **values: Any) -> None:
        """Change attributes of a row, as somebody does by hand."""
        self._change(f"1#1#{account}#{version // 1000}", f"{version:019}", values)

    def change_head(self, account: int, version: int, balance: int) -> None:
        self._change(f"1#1#{account}", "head", {"version": version, "balance": balance})

    def _change(self, pk: str, sk: str, values: dict[str, Any]) -> None:
        self.engine.client().update_item(
            TableName=self.table,
            Key={"pk": {"S": pk}, "sk": {"S": sk}},
            UpdateExpression="SET " + ", ".join(f"#{name} = :{name}" for name in values),
            ExpressionAttributeNames={f"#{name}": name for name in values},
            ExpressionAttributeValues={
                f":{name}": {"S": value} if isinstance(value, str) else {"N": str(value)}
                for name, value in values.items()
            },
        )


def _numbers(item: Any, names: tuple[str, ...]) -> list[int]:
    return [int(item[name]["N"]) for name in names]
