"""Tokens of nodes' service accounts: by TokenRequest, or from a Secret."""

from __future__ import annotations

import asyncio
import logging
from datetime import datetime

from nodepool_k8s.backoff import Backoff
from nodepool_k8s.config.settings import AccessTokenSettings
from nodepool_k8s.errors import ApiError, KubernetesError
from nodepool_k8s.kubernetes import credentials, rights
from nodepool_k8s.kubernetes.client import ApiClient
from nodepool_k8s.kubernetes.parsing import optional_text, parsing, required_text
from nodepool_k8s.kubernetes.refusals import Meaning, judge
from nodepool_k8s.kubernetes.retrying import RetryingClient, path_in
from nodepool_k8s.manifests import WORKER, token_request, token_secret
from nodepool_k8s.model import AccessToken

log = logging.getLogger(__name__)

SECRET_SECONDS = 30.0
"""How long the token controller may take to fill a Secret."""


TOKEN_SECONDS = 24 * 3600.0
"""Seconds that a token has to last at least, if it was granted for longer."""
TOKEN_SHARE = 0.8


def needs_token(expires: float | None, issued: float, now: float) -> bool:
    """Whether a ready node needs a fresh token before it is handed out.

    Not while a day, or four fifths of what was granted, remain. Times are seconds since
    the epoch; ``expires`` is None for a token that does not expire.
    """
    if expires is None:
        return False
    return expires - now < min(TOKEN_SECONDS, TOKEN_SHARE * (expires - issued))


class Tokens:
    """Gets tokens for the requestors of one provider's nodes."""

    def __init__(self, client: ApiClient, provider: str, deployment: str) -> None:
        self._calls = RetryingClient(client)
        self._provider = provider
        self._deployment = deployment
        self.by_request = True
        """Whether TokenRequest is used; False once it was refused."""

    async def create(self, namespace: str, settings: AccessTokenSettings) -> AccessToken:
        """Get a token of a node's service account. Raises KubernetesError."""
        if settings.kind == "secret" or not self.by_request:
            return await self._from_secret(namespace)
        try:
            return await self._by_request(namespace, settings)
        except ApiError as error:
            if error.status != 403 or judge(error).meaning is not Meaning.PERMANENT:
                raise
        self.use_secrets()
        return await self._from_secret(namespace)

    def use_secrets(self) -> None:
        """Use Secrets from now on: the launcher's account may not create tokens."""
        if self.by_request:
            self.by_request = False
            log.warning(
                "provider %s: the launcher's account may not create serviceaccounts/token; "
                "nodes get tokens that do not expire, from Secrets, instead (%s has the right)",
                self._provider,
                rights.MANIFEST,
            )

    async def _by_request(self, namespace: str, settings: AccessTokenSettings) -> AccessToken:
        path = path_in(namespace, "serviceaccounts", WORKER, "token")
        answer = await self._calls.post(path, token_request(settings.lifetime))
        with parsing(f"the token for {namespace}/{WORKER}"):
            status = answer["status"]
            expires = datetime.fromisoformat(status["expirationTimestamp"]).timestamp()
            return AccessToken(required_text(status["token"]), expires)

    async def _from_secret(self, namespace: str) -> AccessToken:
        await self._calls.ensure(path_in(namespace, "secrets"), token_secret(self._deployment))
        try:
            async with asyncio.timeout(SECRET_SECONDS):
                return await self._filled_in(namespace)
        except TimeoutError as error:
            raise KubernetesError(
                f"no token appeared in the Secret {namespace}/{WORKER} within "
                f"{SECRET_SECONDS:.0f} s: is the token controller running?"
            ) from error

    async def _filled_in(self, namespace: str) -> AccessToken:
        path = path_in(namespace, "secrets", WORKER)
        # The token controller is slow; a longer pause would only add to that.
        backoff = Backoff(longest=1.0)
        while True:
            secret = await self._calls.get(path)
            with parsing(f"Secret {namespace}/{WORKER}"):
                token = credentials.decoded(optional_text(secret.get("data") or {}, "token"))
            if token:
                return AccessToken(token)
            await backoff.wait()
