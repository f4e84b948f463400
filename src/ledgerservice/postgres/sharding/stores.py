"""Where the events and the read models of a shard are: beside those of main, under its name.

Epochs and positions are a shard's own, so what two shards publish must not meet in one place.
"""

import re
from urllib.parse import parse_qsl, urlencode, urlsplit

DEFAULT_PREFIX = "ledger"
_next_url = re.compile(r",(?=\s*[a-z]+://)", re.IGNORECASE)


def stores_of(urls: str, shard: str) -> str:
    """A list of URLs, as LEDGER_PUBLISH has it, for a shard: kafka://HOST/PREFIX.SHARD,
    redis://HOST/0?prefix=PREFIX:SHARD, cassandra://HOST/KEYSPACE_SHARD, dynamodb://REGION/TABLE.SHARD.
    """
    parts = [part.strip() for part in _next_url.split(urls)]
    return ",".join(_store_of(part, shard) for part in parts if part)


def _store_of(url: str, shard: str) -> str:
    try:
        parts = urlsplit(url)
    except ValueError:  # whoever connects says what is wrong with it
        return url
    if parts.scheme.lower() in {"redis", "rediss"}:
        options = dict(parse_qsl(parts.query, keep_blank_values=True))
        options["prefix"] = f"{options.get('prefix', DEFAULT_PREFIX)}:{shard}"
        return parts._replace(query=urlencode(options)).geturl()
    path = parts.path.strip("/") or DEFAULT_PREFIX
    if parts.scheme.lower() == "cassandra":  # a keyspace has no -
        return parts._replace(path=f"/{path}_{shard.replace('-', '_')}").geturl()
    return parts._replace(path=f"/{path}.{shard}").geturl()
