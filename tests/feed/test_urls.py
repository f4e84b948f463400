"""A mistake in the URL of another server is a sentence, in every door, before anything starts."""

import pytest

from ledgerservice.errors import ConfigurationError
from ledgerservice.feed.balances import Address
from ledgerservice.feed.targets import target_of, targets_of
from tests.processes import cli

MISTAKES = {
    "": "begins with one of kafka://",
    "h:9092": "begins with one of kafka://",
    "nats://h": "begins with one of kafka://",
    # Ports and hosts, as each scheme has them.
    **{
        f"{scheme}://{hosts}{path}": sentence
        for scheme, path in {
            "kafka": "", "redis": "", "rediss": "", "cassandra": "/k", "dynamodb": "/tab",
        }.items()
        for hosts, sentence in {
            "h:x": f"The port of {scheme}:// is a number from 1 to 65535.",
            "h:0": f"The port of {scheme}:// is a number from 1 to 65535.",
            "h:99999": f"The port of {scheme}:// is a number from 1 to 65535.",
            "h:": f"The port of {scheme}:// is a number from 1 to 65535.",
            "h:1:2": f"The port of {scheme}:// is a number from 1 to 65535.",
            "h:\u0663": f"The port of {scheme}:// is a number from 1 to 65535.",
            "u:secret": f"The port of {scheme}:// is a number from 1 to 65535.",
            "[::1": "The URL is not",
            "": "The URL is not",
            "u:p@": "The URL is not",
            ",h": f"A host of {scheme}:// is not valid.",
            "h,": f"A host of {scheme}:// is not valid.",
            "a b": f"A host of {scheme}:// is not valid.",
            "u:#secret@h": f"Write a # in a URL of {scheme}:// as %23.",
        }.items()
    },
    "kafka://h/a/b": "A prefix of kafka://",
    "kafka://h/a b": "A prefix of kafka://",
    "kafka://h?partitions=x": "Kafka's option partitions is a number from 1 to 10000.",
    "kafka://h?replication=0": "Kafka's option replication is a number from 1 to 10000.",
    "kafka://h?security.protocol=x": "Invalid value",
    "kafka://h?error_cb=x": "Kafka's option error_cb cannot be set.",
    "kafka://h?default.topic.config=x": "Kafka's option default.topic.config cannot be set.",
    "kafka://h?acks=1&acks=1": "An option of kafka:// is given twice.",
    "redis://h,g": "The URL is not redis://",
    "redis://h/x": "The database of redis:// is a number.",
    "redis://h?protocol=x": "An option of redis://h:6379/0",
    "redis://h?protocol=9": "An option of redis://h:6379/0",
    "rediss://h?ssl_cert_reqs=x": "An option of rediss://h:6379/0",
    "redis://h?db=x": "An option of redis://h:6379/0",
    "cassandra://h": "A keyspace of cassandra://",
    "cassandra://h/K": "A keyspace of cassandra://",
    "cassandra://h/k?protocol=x": "The protocol of cassandra:// is a number from 3 to 6.",
    "cassandra://h/k?protocol=99": "The protocol of cassandra:// is a number from 3 to 6.",
    "cassandra://h/k?replication=0": "The replication of cassandra:// is a number from 1 to 99.",
    "cassandra://h/k?replication=a:b": "The replication of cassandra:// is a number, or as in",
    "cassandra://h/k?consistency=ANY": "The consistency of cassandra:// is one of ONE,",
    "cassandra://h/k?tls=yes": "The option tls of cassandra:// is true or false.",
    "cassandra://h/k?cafile=/no": "The option cafile of cassandra:// needs tls=true.",
    "cassandra://h/k?tls=true&cafile=/no": "The cafile of cassandra:// cannot be used: No such",
    "cassandra://h/k?colour=red": "cassandra:// does not have the option colour;",
    "cassandra://u:1?secret@h/k": "cassandra:// does not have such an option;",
    "dynamodb://eu": "A table of dynamodb://",
    "dynamodb://eu:99/tab": "The URL is not dynamodb://REGION/TABLE",
    "dynamodb://eu,us/tab": "The URL is not dynamodb://REGION/TABLE",
    "dynamodb://eu/tab?endpoint=h": "The URL is not http://HOST:PORT",
    "dynamodb://eu/tab?endpoint=ftp://h": "The endpoint of dynamodb:// is http://HOST:PORT",
    "dynamodb://eu/tab?endpoint=http://h:x": "The port of http:// is a number from 1 to 65535.",
    "dynamodb://eu/tab?endpoint=http://h/x": "The endpoint of dynamodb:// is http://HOST:PORT",
}  # fmt: skip


@pytest.mark.parametrize("url", MISTAKES)
def test_a_mistake_is_a_sentence_without_the_password(url: str) -> None:
    with pytest.raises(ConfigurationError) as fault:
        target_of(url)
    assert MISTAKES[url] in str(fault.value)
    assert "secret" not in str(fault.value)


@pytest.mark.parametrize(
    ("url", "name"),
    {
        "kafka://h": "kafka://h:9092/ledger",
        "kafka://u:p@h:1,[::1]/p?acks=all": "kafka://h:1,[::1]:9092/p",
        "KAFKA://h": "kafka://h:9092/ledger",
        "redis://:p@[::1]:7/3": "redis://[::1]:7/3?prefix=ledger",
        "cassandra://u:p@[::1]:7,h-1/k": "cassandra://[::1]:7,h-1:9042/k",
        "dynamodb://u:p@eu-west-1/tab?endpoint=http://[::1]:7":
            "dynamodb://eu-west-1/tab?endpoint=http://[::1]:7",
    }.items(),
)  # fmt: skip
def test_a_url_without_a_mistake_has_a_name(url: str, name: str) -> None:
    assert target_of(url).name == name


def test_the_urls_of_a_list() -> None:
    listed = "kafka://a,b:1, REDIS://h ,cassandra://c,d/k"
    names = [target.name for target in targets_of(listed)]
    assert [name.partition("://")[0] for name in names] == ["kafka", "redis", "cassandra"]


@pytest.mark.parametrize("url", ["", "h", "kafka://h", "redis://h:x", "redis://[::1"])
def test_a_mistake_in_the_address_of_the_cache_is_a_sentence(url: str) -> None:
    with pytest.raises(ConfigurationError, match="redis://"):
        Address.of(url)


DOORS = [
    (("consume", "{}"), "", "kafka://u:secret@h:x"),
    (("publish", "{}"), "", "kafka://u:secret@h:x"),
    (("publish", "redis://h", "{}"), "", "cassandra://u:secret@h:x/k"),
    (("publish",), "LEDGER_PUBLISH", "redis://h,cassandra://u:secret@h:x/k"),
    (("compare", "--store", "{}"), "", "cassandra://u:secret@h:x/k"),
    (("compare", "--store", "{}"), "", "dynamodb://u:secret@eu/tab?endpoint=http://h:x"),
    (("serve",), "LEDGER_PUBLISH", "redis://u:secret@h:x"),
    (("serve",), "LEDGER_CACHE", "redis://u:secret@h:x"),
    (("serve", "--workers", "2"), "LEDGER_CACHE", "redis://u:secret@h:x"),
    (("serve",), "LEDGER_HISTORY", "cassandra://u:secret@h:x/k"),
]


@pytest.mark.processes
@pytest.mark.parametrize(("arguments", "setting", "url"), DOORS)
def test_every_door_says_it_in_a_line(arguments: tuple[str, ...], setting: str, url: str) -> None:
    done = cli(*(one.format(url) for one in arguments), LEDGER_DATA_FOLDER="/nowhere",
               **({setting: url} if setting else {}))  # fmt: skip
    assert done.returncode == 1
    assert "is a number from 1 to 65535." in " ".join(done.stderr.split())
    assert "Traceback" not in done.stderr
    assert "secret" not in done.stderr + done.stdout
