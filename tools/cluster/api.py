"""The few blocking calls to the API server that bringing up a cluster takes."""

import http.client
import json
from typing import Any
from urllib.parse import urlsplit

from .errors import ClusterError
from .pki import Pki
from .probing import tls_context

TIMEOUT_S = 10.0


class Api:
    """Calls as the cluster's admin."""

    def __init__(self, url: str, pki: Pki) -> None:
        parts = urlsplit(url)
        self._host, self._port = parts.hostname or "", parts.port
        self._tls = tls_context(pki.ca, pki.cert("admin"), pki.key("admin"))

    def get(self, path: str) -> dict[str, Any] | None:
        """The object at a path, or None."""
        status, body = self._call("GET", path)
        if status == http.client.NOT_FOUND:
            return None
        return self._checked("GET", path, status, body)

    def create(self, path: str, document: dict[str, Any]) -> dict[str, Any]:
        status, body = self._call("POST", path, document)
        return self._checked("POST", path, status, body)

    def patch(self, path: str, document: dict[str, Any]) -> dict[str, Any]:
        status, body = self._call("PATCH", path, document, "application/merge-patch+json")
        return self._checked("PATCH", path, status, body)

    def _call(
        self,
        method: str,
        path: str,
        document: dict[str, Any] | None = None,
        content_type: str = "application/json",
    ) -> tuple[int, bytes]:
        connection = http.client.HTTPSConnection(
            self._host, self._port, timeout=TIMEOUT_S, context=self._tls
        )
        try:
            body = None if document is None else json.dumps(document)
            connection.request(method, path, body, {"Content-Type": content_type})
            response = connection.getresponse()
            return response.status, response.read()
        finally:
            connection.close()

    def _checked(self, method: str, path: str, status: int, body: bytes) -> dict[str, Any]:
        if status >= http.client.BAD_REQUEST:
            text = body.decode(errors="replace")
            raise ClusterError(f"the API server answered {method} {path} with {status}: {text}")
        answer: dict[str, Any] = json.loads(body)
        return answer
