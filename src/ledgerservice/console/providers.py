"""The OpenID provider as the console knows it: `access/oidc` has the real one."""

from typing import Protocol


class Provider(Protocol):
    """Where people sign in. Both methods raise SignInFailed."""

    @property
    def issuer(self) -> str:
        """Its URL, which is the claim `iss` of its tokens."""

    async def place(self, redirect_uri: str, state: str, nonce: str, verifier: str) -> str:
        """The URL at which the provider asks who the reader is."""

    async def token(
        self, redirect_uri: str, code: str, verifier: str, nonce: str
    ) -> tuple[str, float]:
        """The token that a code is exchanged for, and how many seconds it is good for."""
