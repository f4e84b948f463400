"""Balances in Valkey, as a client reads them who knows the keys from docs/scale-redis.md."""

from tests.engines.servers import Valkey
from tests.engines.stores import Balance, State, Store


class ValkeyStore(Store):
    """The balances below a prefix."""

    engine: Valkey

    def __init__(self, engine: Valkey, prefix: str) -> None:
        self.engine = engine
        self.prefix = prefix
        self.url = f"redis://{engine.address}/0?prefix={prefix}"

    def generation(self, epoch: int = 1) -> str | None:
        """The prefix of the generation that is read, if it is of this epoch and has a position."""
        with self.engine.client() as client:
            current = (client.get(f"{self.prefix}:current") or b"").decode()
            place = f"{self.prefix}:{current}"
            if current.startswith(f"{epoch}:") and client.hexists(place, "published"):
                return place
            return None

    def state(self, epoch: int = 1) -> State:
        place = self.generation(epoch)
        balances: dict[tuple[int, int], Balance] = {}
        with self.engine.client() as client:
            for key in client.scan_iter(f"{place}:*", count=1_000) if place else ():
                ledger, account = key.decode().removeprefix(f"{place}:").split(":")
                values = client.hmget(key, "version", "balance", "held")
                if None not in values:  # An account without entries has no version.
                    balances[int(ledger), int(account)] = Balance(*map(int, values))
        return State(balances=balances)

    def forget_position(self) -> None:
        with self.engine.client() as client:
            for pointer in ("current", "next"):
                name = (client.get(f"{self.prefix}:{pointer}") or b"").decode()
                client.hdel(f"{self.prefix}:{name}", "published", "id", "written_us")
