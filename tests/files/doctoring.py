"""Backups that were doctored: their members and manifest, taken apart and put together again."""

import hashlib
import io
import zipfile
from typing import Any

import msgspec
import pytest

from ledgerservice.files.archive import MANIFEST

Manifest = dict[str, Any]
Members = dict[str, bytes]


def opened(content: bytes) -> tuple[Manifest, Members]:
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    return msgspec.json.decode(members.pop(MANIFEST)), members


def closed(manifest: Manifest, members: Members, *more: tuple[str, bytes]) -> bytes:
    target = io.BytesIO()
    with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in [*members.items(), *more]:
            archive.writestr(name, content)
        archive.writestr(MANIFEST, msgspec.json.encode(manifest))
    return target.getvalue()


def with_manifest(good: bytes, **changes: Any) -> bytes:
    manifest, members = opened(good)
    return closed(manifest | changes, members)


def with_more(good: bytes, name: str, content: bytes = b"DROP TABLE x") -> bytes:
    manifest, members = opened(good)
    return closed(manifest, members, (name, content))


def with_rows(good: bytes, table: str, *replacements: tuple[bytes, bytes]) -> bytes:
    """Other rows, with a manifest that agrees with them."""
    manifest, members = opened(good)
    rows = members[f"tables/{table}.copy"]
    for before, after in replacements:
        assert before in rows
        rows = rows.replace(before, after, 1)
    members[f"tables/{table}.copy"] = rows
    manifest["tables"][table] |= {
        "rows": rows.count(b"\n"),
        "size_bytes": len(rows),
        "sha256": hashlib.sha256(rows).hexdigest(),
    }
    return closed(manifest, members)


def with_totals(good: bytes, **changes: Any) -> bytes:
    manifest, members = opened(good)
    manifest["totals"] |= changes
    return closed(manifest, members)


def with_record(good: bytes, table: str, **changes: Any) -> bytes:
    manifest, members = opened(good)
    manifest["tables"][table] |= changes
    return closed(manifest, members)


def with_changed_rows(good: bytes) -> bytes:
    """The same size, another balance, and the manifest as it was."""
    manifest, members = opened(good)
    before = members["tables/accounts.copy"]
    members["tables/accounts.copy"] = before.replace(b"\t0\t0\t", b"\t9\t0\t", 1)
    assert members["tables/accounts.copy"] != before
    return closed(manifest, members)


def with_table_named(good: bytes, name: str) -> bytes:
    manifest, members = opened(good)
    manifest["tables"][name] = manifest["tables"].pop("accounts")
    members[f"tables/{name}.copy"] = members.pop("tables/accounts.copy")
    return closed(manifest, members)


def with_member_twice(good: bytes) -> bytes:
    with pytest.warns(UserWarning, match="Duplicate name"):
        return with_more(good, "tables/accounts.copy")


def with_byte_flipped(good: bytes) -> bytes:
    middle = len(good) // 3
    return good[:middle] + bytes([good[middle] ^ 1]) + good[middle + 1 :]


def encrypted(good: bytes) -> bytes:
    """With the flag that says so, in both headers of each member."""
    content = bytearray(good)
    for signature, place in ((b"PK\3\4", 6), (b"PK\1\2", 8)):
        at = content.find(signature)
        while at >= 0:
            content[at + place] |= 1
            at = content.find(signature, at + 4)
    return bytes(content)
