"""Answers over HTTP by Ray Serve: replicas of the model, each with all shards mapped for reading.

Replicas on one machine share the pages of the files. What a call knows lives in the call, so that a replica answers several
at a time, and one that dies is started again by Ray.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from typing import Any, Protocol

from kblam_engine.cluster.manifest import read_manifest
from kblam_engine.cluster.opening import open_shards
from kblam_engine.engine import KBLaM
from kblam_engine.errors import ConfigurationError, KBLaMError, MissingDependencyError

NAME = "kblam"
OPTIONS = frozenset(
    {"max_new_tokens", "temperature", "top_k", "top_p", "seed", "stop", "refusal_threshold", "max_hops", "unknown"}
)
"""What a request may set; see `KBLaM.answer`."""
MAX_NEW_TOKENS = 1_024
"""More than this is refused: a request should not hold a replica for long."""


class Request(Protocol):
    """What is read of an HTTP request; starlette's is one."""

    async def body(self) -> bytes:
        """Return the body."""


class Answers:
    """A replica: the model and the shards."""

    def __init__(self, folder: str, model: Mapping[str, Any]) -> None:
        """Load both.

        Args:
            folder: of the shards.
            model: arguments of `KBLaM.from_pretrained`.
        """
        self._kb = open_shards(folder, index=model.get("index", "auto"))
        self._model = KBLaM.from_pretrained(**model)

    async def __call__(self, request: Request) -> Any:
        """Answer an HTTP request: a JSON object in, one out, with status 400 and an `error` where it is not usable."""
        from starlette.responses import JSONResponse

        try:
            asked = _read(await request.body())
            return JSONResponse(await asyncio.to_thread(self.answer, **asked))
        except KBLaMError as error:
            return JSONResponse({"error": str(error)}, status_code=400)

    def answer(self, question: Any, **options: Any) -> dict[str, Any]:
        """Answer a question (text or messages) as `KBLaM.answer` does, as a JSON object; also for a handle of Ray Serve."""
        return self._model.answer(question, self._kb, **options).to_dict()


def serve_shards(
    ray: Any, folder: str, model: Mapping[str, Any], *, replicas: int = 1, host: str = "127.0.0.1", port: int = 8000
) -> Any:
    """Start answering at `http://host:port/`, and return a handle of Ray Serve once all replicas are ready.

    Nobody is asked who they are: put a server in front of it that does, before others than you can reach it.

    Args:
        ray: from `ray_cluster.connect`.
        folder: of the shards, as all machines see it.
        model: arguments of `KBLaM.from_pretrained`.
        replicas: copies of the model; each takes one core while Ray places it.
        host: address to listen on.
        port: and its port.

    Raises:
        ConfigurationError: there is less than one replica, or no such port.
        KnowledgeBaseError: there are no shards.
        MissingDependencyError: Ray Serve is not installed.
    """
    if replicas < 1 or not 0 < port < 65_536:
        raise ConfigurationError(f"expected replicas of at least 1 and a port, got {replicas} and {port}")
    read_manifest(folder)
    try:
        from ray import serve
    except ImportError:
        raise MissingDependencyError(
            'answering over HTTP needs Ray Serve: pip install "kblam-engine[cluster-serve]"'
        ) from None
    serve.start(http_options={"host": host, "port": port})
    deployment = serve.deployment(num_replicas=replicas, max_ongoing_requests=4, ray_actor_options={"num_cpus": 1})(Answers)
    return serve.run(deployment.bind(str(folder), dict(model)), name=NAME, route_prefix="/")


def stop_serving() -> None:
    """Stop answering; on a cluster that goes on, replicas would go on as well."""
    from ray import serve

    serve.delete(NAME)


def _read(body: bytes) -> dict[str, Any]:
    """Return the question and options of a request.

    Raises:
        ConfigurationError: it is no JSON object with a question or messages, or has an option that there is not.
    """
    try:
        asked = json.loads(body)
    except ValueError as error:
        raise ConfigurationError(f'expected JSON such as {{"question": "..."}}, got {error}') from None
    if not isinstance(asked, dict) or ("question" in asked) == ("messages" in asked):
        raise ConfigurationError('expected a JSON object with "question" or "messages"')
    question = asked.pop("question", None) or asked.pop("messages", None)
    unknown = sorted(set(asked) - OPTIONS)
    if unknown:
        raise ConfigurationError(f"unknown option {unknown[0]!r}: expected some of {', '.join(sorted(OPTIONS))}")
    longest = asked.get("max_new_tokens", 0)
    if isinstance(longest, int) and longest > MAX_NEW_TOKENS:
        raise ConfigurationError(f"max_new_tokens: expected at most {MAX_NEW_TOKENS}, got {longest}")
    return {"question": question or "", **asked}
