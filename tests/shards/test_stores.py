"""Where what a shard publishes is."""

import pytest

from ledgerservice.postgres.sharding.stores import stores_of


@pytest.mark.parametrize(
    ("urls", "of_shard"),
    [
        ("kafka://host:9092", "kafka://host:9092/ledger.b-1"),
        ("kafka://host/bank?acks=all", "kafka://host/bank.b-1?acks=all"),
        ("redis://u:p@host:6379/0", "redis://u:p@host:6379/0?prefix=ledger%3Ab-1"),
        ("rediss://host/0?prefix=bank", "rediss://host/0?prefix=bank%3Ab-1"),
        ("cassandra://one,two/bank", "cassandra://one,two/bank_b_1"),
        ("dynamodb://eu-central-1/bank", "dynamodb://eu-central-1/bank.b-1"),
        (
            "kafka://host, redis://host/1",
            "kafka://host/ledger.b-1,redis://host/1?prefix=ledger%3Ab-1",
        ),
    ],
)
def test_a_shard_has_places_of_its_own(urls: str, of_shard: str) -> None:
    assert stores_of(urls, "b-1") == of_shard
