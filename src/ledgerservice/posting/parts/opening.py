"""Opening accounts: those of a ledger with parts go to the part with their key and reference."""

import asyncio
import logging
from typing import Any

import msgspec

from ledgerservice.domain.accounts import Opened, Opening
from ledgerservice.domain.ledgers import Claim, Parts
from ledgerservice.domain.transactions import Rejected, Rejection
from ledgerservice.postgres.registration import claim_names, open_accounts
from ledgerservice.posting.frames import MOVEMENTS
from ledgerservice.posting.movements import weight_of
from ledgerservice.posting.parts.crossing import Crossings, MovementPoster, RemoteMovementPoster
from ledgerservice.posting.poster import Poster
from ledgerservice.posting.queues import Queues
from ledgerservice.posting.remote import PosterAddress

log = logging.getLogger(__name__)


class OpeningPoster(Poster[Opening, Opened | Rejected]):
    """The poster of openings.

    A key and a reference are unique in the whole ledger, so they are claimed for one part before it
    opens the account. A claim is for ever: a repeat meets what the first one has opened.
    """

    crossings: Crossings
    claims: Poster[list[Claim], list[int]]
    """On the directory."""

    def enter(self, request: Opening) -> asyncio.Future[Opened | Rejected]:
        """As `Poster.enter`."""
        parts = self.crossings.parts.get(request.ledger)
        if parts is None and request.part is None:
            return super().enter(request)
        self.check_room()
        return asyncio.create_task(self._open(parts, request))

    async def _open(self, parts: Parts | None, opening: Opening) -> Opened | Rejected:
        if parts is None or not 0 <= (opening.part or 0) < len(parts.ids):
            return Rejected(Rejection.PART_UNKNOWN)
        claims = parts.claims_of(opening)
        numbers = {parts.part_for(opening)}
        if claims and not opening.dry_run:
            numbers = set(await self.claims.post(claims))
        if len(numbers) > 1:  # the key and the reference are those of two accounts
            return Rejected(Rejection.REFERENCE_TAKEN)
        number = numbers.pop()
        if opening.part not in (None, number):
            return Rejected(Rejection.KEY_REUSED)
        ledger_id = parts.ids[number]
        home = await self.crossings.home_of(ledger_id)
        answer = await home.open(msgspec.structs.replace(opening, ledger=ledger_id, part=None))
        if isinstance(answer, Rejected):
            return answer
        return msgspec.structs.replace(answer, ledger=parts.ledger_id)


def posters_of_ledgers(
    queues: Queues,
    address: PosterAddress | None,
    crossings: Crossings,
    claims: Poster[list[Claim], list[int]] | None,
) -> dict[str, Any]:
    """The posters of movements and openings. `claims` are made on main; None: this is main."""
    movements: Any = (
        queues.overlapping(MOVEMENTS, MovementPoster)
        if address is None
        else queues.remote(MOVEMENTS, address, weight_of, RemoteMovementPoster)
    )
    openings: Any = queues.writing("accounts", open_accounts, form=OpeningPoster)
    movements.serve_parts(crossings)
    openings.crossings = crossings
    openings.claims = claims or queues.writing("claims", claim_names, len)
    return {"movements": movements, "openings": openings}
