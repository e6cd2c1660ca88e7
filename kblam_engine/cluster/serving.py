"""Answers over HTTP by Ray Serve: replicas of the model, each with all shards mapped for reading.

Replicas on one machine share the pages of the files. What a call knows lives in the call, so that a replica answers several
at a time, and one that dies is started again by Ray. Shards that are built again are answered from as soon as they are there.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from kblam_engine.calls import Question, as_messages
from kblam_engine.cluster.live import LiveShards
from kblam_engine.cluster.manifest import read_manifest
from kblam_engine.cluster.requests import Request, TooLargeError, body_of, read_request
from kblam_engine.engine import KBLaM
from kblam_engine.errors import ConfigurationError, KBLaMError, MissingDependencyError

_LOG = logging.getLogger(__name__)


class Answers:
    """A replica: the model and the shards."""

    def __init__(self, folder: str, model: Mapping[str, Any]) -> None:
        """Load both.

        Args:
            folder: of the shards.
            model: arguments of `KBLaM.from_pretrained`.
        """
        self._shards = LiveShards(folder, index=model.get("index", "auto"))
        self._model = KBLaM.from_pretrained(**model)

    async def __call__(self, request: Request) -> Any:
        """Answer an HTTP request: a JSON object in, one out.

        Where it is not answered, the object has an `error`: with status 400 (413 if it is too large) for what whoever asks can
        mend, 500 for what is wrong here.
        """
        from starlette.responses import JSONResponse

        try:
            asked = read_request(await body_of(request))
            return JSONResponse(await asyncio.to_thread(self.answer, **asked))
        except ConfigurationError as error:
            return JSONResponse({"error": str(error)}, status_code=413 if isinstance(error, TooLargeError) else 400)
        except Exception as error:
            _LOG.exception("a question could not be answered")
            # Only what was written for a user is told to whoever is out there.
            told = str(error) if isinstance(error, KBLaMError) else f"{type(error).__name__}; the log of the replica says more"
            return JSONResponse({"error": told}, status_code=500)

    def answer(self, question: Any, **options: Any) -> dict[str, Any]:
        """Answer a question (text or messages) as `KBLaM.answer` does, as a JSON object; also for a handle of Ray Serve.

        Raises:
            ConfigurationError: an option or message is not valid, or they are longer than the base model can read.
            KnowledgeBaseError: the shards cannot be read.
        """
        self._check_length(question)
        with self._shards.current() as kb:
            return self._model.answer(question, kb, **options).to_dict()

    def _check_length(self, question: Question) -> None:
        limit = getattr(self._model.lm.config.get_text_config(), "max_position_embeddings", None)
        n_tokens = len(self._model.prompt_ids(as_messages(question)))
        if limit is not None and n_tokens >= limit:
            raise TooLargeError(f"expected fewer than {limit:,} tokens, what the base model can read, got {n_tokens:,}; ask in fewer words")


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
        ConfigurationError: there is less than one replica or no such port, nothing can listen there, Ray Serve listens elsewhere
            on this cluster or answers from something else there, or no replica could be started.
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
    name = app_name(folder, port)
    _listen(ray, serve, host, port)
    deployment = serve.deployment(num_replicas=replicas, max_ongoing_requests=4, ray_actor_options={"num_cpus": 1})(Answers)
    try:
        return serve.run(deployment.bind(str(folder), dict(model)), name=name, route_prefix="/")
    except (RuntimeError, ray.exceptions.RayError) as error:
        why = _last_line(_why_not(serve, name) or error)
        serve.delete(name)
        raise ConfigurationError(f"{folder}: expected replicas that start, got {why}") from error


def stop_serving(folder: str, port: int) -> None:
    """Stop answering from a folder of shards; on a cluster that goes on, replicas would go on as well."""
    from ray import serve

    serve.delete(app_name(folder, port))


def app_name(folder: str, port: int) -> str:
    """Return what Ray Serve calls the answers from a folder at a port: the same again takes the place of those before."""
    place = str(Path(folder).absolute())
    return f"kblam-{hashlib.sha256(place.encode()).hexdigest()[:12]}-{port}"


def _listen(ray: Any, serve: Any, host: str, port: int) -> None:
    """Start Ray Serve, unless it listens there already.

    Raises:
        ConfigurationError: nothing can listen there, or it listens elsewhere.
    """
    before = _listening()
    if before is not None and before != (host, port):
        raise ConfigurationError(
            f"--host, --port: expected {before[0]} and {before[1]}, where Ray Serve listens on this cluster already, got {host} and "
            f"{port}; take these, or end it first: serve shutdown"
        )
    if before is not None:
        return
    try:
        serve.start(http_options={"host": host, "port": port})
    except (OSError, RuntimeError, ray.exceptions.RayError) as error:
        serve.shutdown()  # else it would be there, and listen nowhere
        raise ConfigurationError(
            f"{host}:{port}: expected an address of this machine and a free port to listen on, got {_last_line(error)}; take another "
            "--host or --port"
        ) from error


def _listening() -> tuple[str, int] | None:
    """Return host and port that Ray Serve listens on in this cluster; None if it does not run.

    There is no public way to ask: what `serve.start` is given beside a running one is not applied, and only logged.
    """
    from ray.serve.context import _get_global_client

    client = _get_global_client(raise_if_no_controller_running=False)
    return None if client is None else (client.http_config.host, client.http_config.port)


def _why_not(serve: Any, name: str) -> str:
    """Return why the replicas of an application did not start, as Ray tells it; empty if nobody says."""
    app = serve.status().applications.get(name)
    told = [deployment.message for deployment in app.deployments.values()] if app is not None else []
    return "\n".join(told)


def _last_line(error: object) -> str:
    """Return the last line of what Ray tells: a traceback, of which that is what went wrong."""
    cause = getattr(error, "cause", None) or error  # of a task of Ray's, what it raised there
    return (str(cause).strip() or type(cause).__name__).splitlines()[-1].strip()
