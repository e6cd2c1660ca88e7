"""The steps from a question to an answer as a LlamaIndex workflow, which is what query pipelines became."""

from __future__ import annotations

from typing import Any

from llama_index.core.base.base_query_engine import BaseQueryEngine
from llama_index.core.base.response.schema import RESPONSE_TYPE, AsyncStreamingResponse, Response
from llama_index.core.schema import NodeWithScore
from llama_index.core.workflow import Context, Event, StartEvent, StopEvent, Workflow, step

from kblam_engine.errors import ConfigurationError
from kblam_integrations.llama_index.query_engine import KBLaMQueryEngine


class PieceEvent(Event):
    """A piece of the answer, as it is written.

    Example:
        .. code-block:: python

            import asyncio
            from kblam_integrations.llama_index import KBLaMWorkflow, PieceEvent

            async def main():
                run = KBLaMWorkflow([("Orca 2", "battery life", "11 hours")], streaming=True).run(query="Orca 2: battery life?")
                async for event in run.stream_events():
                    if isinstance(event, PieceEvent):
                        print(event.delta, end="", flush=True)
                await run

            asyncio.run(main())

    Attributes:
        delta: the characters that are new, seldom more than a token's; the whole answer of a query engine that does not
            stream.
    """

    delta: str


class SourcesEvent(Event):
    """What the answer will rest on, before its first piece, from a query engine that streams.

    Example:
        .. code-block:: python

            import asyncio
            from kblam_integrations.llama_index import KBLaMWorkflow, SourcesEvent

            async def main():
                run = KBLaMWorkflow([("Orca 2", "battery life", "11 hours")], streaming=True).run(query="Orca 2: battery life?")
                async for event in run.stream_events():
                    if isinstance(event, SourcesEvent):
                        print([(node.text, node.score) for node in event.nodes])
                await run

            asyncio.run(main())

    Attributes:
        nodes: a node for each triple that the answer may attend, with the probability, 0 to 1, that it answers as score;
            a refusal has none.
    """

    nodes: list[NodeWithScore]


class RefusedEvent(Event):
    """The knowledge base does not hold the answer. It starts the step ``fall_back``, which a subclass may replace.

    Example:
        .. code-block:: python

            import asyncio
            from llama_index.core.workflow import Context, StopEvent, step
            from kblam_integrations.llama_index import KBLaMQueryEngine, KBLaMWorkflow, RefusedEvent

            class Passing(KBLaMWorkflow):
                @step
                async def fall_back(self, ctx: Context, ev: RefusedEvent) -> StopEvent:
                    return StopEvent(result=f"Nobody knows: {ev.query} ({ev.response.metadata['confidence']:.2f})")

            async def main():
                kb = [("Orca 2", "battery life", "11 hours")]
                print(await Passing(kb, fallback=KBLaMQueryEngine(kb)).run(query="Who is the mayor of Varnholm?"))

            asyncio.run(main())

    Attributes:
        query: the question.
        response: the refusal.
    """

    query: str
    response: Any


class KBLaMWorkflow(Workflow):
    """Ask the knowledge base first, and another query engine if it refuses.

    Run it with `query`. Its result is a response as of a query engine; ``metadata["answered_by"]`` is
    "knowledge base" or "fallback". Its event stream carries a ``PieceEvent`` for each piece of text, and before that a
    ``SourcesEvent`` if the query engine streams. Retrieval comes before the first word, so that a refusal is known by then: of
    one that the fallback takes over nothing is told, and then the fallback's answer is, as it comes.

    Example:
        .. code-block:: python

            import asyncio
            from kblam_integrations.llama_index import KBLaMQueryEngine, KBLaMWorkflow

            async def main():
                towns = KBLaMQueryEngine([("Varnholm", "mayor", "Ingrid Solberg")])  # any query engine
                workflow = KBLaMWorkflow(kb=[("Orca 2", "battery life", "11 hours")], fallback=towns)
                response = await workflow.run(query="Who is the mayor of Varnholm?")
                print(response.metadata["answered_by"], response)

            asyncio.run(main())

    Raises:
        ConfigurationError: `query_engine` is given together with `kb` or `options`, or `run` no text as `query`.
    """

    def __init__(
        self,
        kb: Any = None,
        *,
        query_engine: KBLaMQueryEngine | None = None,
        fallback: BaseQueryEngine | None = None,
        timeout: float | None = None,
        verbose: bool = False,
        **options: Any,
    ) -> None:
        """Load nothing yet.

        Args:
            kb: what to answer from; see ``KBLaMQueryEngine``.
            query_engine: in place of `kb` and `options`.
            fallback: asked what the knowledge base refuses; None: a refusal is the answer.
            timeout: seconds for a run; None: no limit.
            verbose: let the workflow print its steps.
            options: of ``KBLaMQueryEngine``.

        Raises:
            ConfigurationError: `query_engine` is given together with `kb` or `options`.
        """
        super().__init__(timeout=timeout, verbose=verbose)
        if query_engine is not None and (kb is not None or options):
            raise ConfigurationError("expected query_engine, or kb and its options, got both")
        self._engine = query_engine or KBLaMQueryEngine(kb, **options)
        self._fallback = fallback

    @step
    async def ask(self, ctx: Context, ev: StartEvent) -> StopEvent | RefusedEvent:
        """Ask the knowledge base.

        Raises:
            ConfigurationError: the run was started without a text as `query`.
        """
        query = ev.get("query")
        if not isinstance(query, str):
            raise ConfigurationError(f"query: expected a text, got {query!r}; start with run(query=...)")
        response = await self._engine.aquery(query)
        # A stream says before its first word whether it will be a refusal; one that another answer replaces is not told.
        replaced = self._fallback is not None and bool((response.metadata or {}).get("refused"))
        response = await self._read(response, None if replaced else ctx)
        response.metadata = {**(response.metadata or {}), "answered_by": "knowledge base"}
        return RefusedEvent(query=query, response=response) if replaced else StopEvent(result=response)

    @step
    async def fall_back(self, ctx: Context, ev: RefusedEvent) -> StopEvent:
        """Ask the other query engine."""
        assert self._fallback is not None  # else nothing sends this event
        response = await self._read(await self._fallback.aquery(ev.query), ctx)
        response.metadata = {**(response.metadata or {}), "answered_by": "fallback"}
        return StopEvent(result=response)

    async def _read(self, response: RESPONSE_TYPE, ctx: Context | None) -> Any:
        """Return a response with its whole text; what is new is told to `ctx` as it comes."""

        def tell(event: Event) -> None:
            if ctx is not None:
                ctx.write_event_to_stream(event)

        if not isinstance(response, AsyncStreamingResponse):
            tell(PieceEvent(delta=str(response)))
            return response
        tell(SourcesEvent(nodes=list(response.source_nodes)))
        text = ""
        async for piece in response.async_response_gen():
            text += piece
            tell(PieceEvent(delta=piece))
        return Response(text, response.source_nodes, response.metadata)
