"""`kblam cluster`: a knowledge base in shards, built side by side on one machine or on many."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from kblam_engine.cli._answering import IndexOption
from kblam_engine.cli._measuring import progress_bar
from kblam_engine.cli._options import DEFAULT_MODEL, AdapterOption, DeviceOption, DtypeOption, ModelOption
from kblam_engine.cli._printing import say
from kblam_engine.cli._tables import print_table
from kblam_engine.cli.kb_common import JSONOption, MultiOption, many, print_json

if TYPE_CHECKING:
    from kblam_engine.cluster.workers import Workers

_Folder = Annotated[Path, typer.Argument(help="Folder of the shards.", show_default=False)]
_Address = Annotated[
    str,
    typer.Argument(
        metavar="URL", help="Any that fsspec knows: s3://bucket/path, gs://, az://, file:///path.", show_default=False
    ),
]


def register(app: typer.Typer) -> None:
    """Add `kblam cluster` to the command line."""
    group = typer.Typer(help="Knowledge bases in shards, for more than one machine.")
    group.command("build")(build)
    group.command("info")(info)
    group.command("push")(push)
    group.command("pull")(pull)
    group.command("serve")(serve)
    app.add_typer(group, name="cluster")


def build(
    triples: Annotated[
        list[str], typer.Argument(help="Files of triples: JSONL, Parquet, CSV.", show_default=False)
    ],
    output: Annotated[Path, typer.Option("--output", help="Folder of the shards.", show_default=False)],
    shards: Annotated[int, typer.Option("--shards", min=1, help="How many shards.", show_default=False)],
    address: Annotated[
        str | None,
        typer.Option(
            "--address",
            help="Ray cluster that does the work: auto, or host:port of its head; default: this machine.",
            show_default=False,
        ),
    ] = None,
    workers: Annotated[
        int | None,
        typer.Option(
            "--workers", min=1, help="Processes at a time; 1 on this machine needs no Ray.  [default: all cores]"
        ),
    ] = None,
    encoder: Annotated[str, typer.Option("--encoder", help="Sentence encoder.")] = "all-minilm-l6-v2",
    multi: MultiOption = False,
    index: Annotated[
        Literal["exact", "tree", "ann"],
        typer.Option("--index", help="Index that each shard gets; exact: every key is scored."),
    ] = "exact",
    as_json: JSONOption = False,
) -> None:
    """Build a knowledge base in shards, or what of it is missing.

    A shard that is complete is not made again. On several machines all of them have to see the files and the folder.
    """
    from kblam_engine.cluster import BuildRequest, build_shards

    request = BuildRequest(tuple(triples), output, shards, encoder, multi, index)
    with _workers(address, workers) as working, _progress(as_json) as progress:
        report = build_shards(request, working, progress)
    if as_json:
        print_json(report.to_dict())
        return
    if report.skipped:
        say(f"left out - {', '.join(f'{why}: {n}' for why, n in report.skipped.items())}", err=True)
    for path in report.empty:
        say(f"no triples in {path}", err=True)
    if report.replaced:
        values = "value is overruled by a later one" if report.replaced == 1 else "values are overruled by later ones"
        say(f"{report.replaced:,} {values} of the same name and property; --multi keeps all", err=True)
    again = f", {report.unchanged:,} said again" if report.unchanged else ""
    say(
        f"{report.manifest.n_triples:,} triples{again} in {shards:,} shards, {len(report.made):,} of them made now; "
        f"ask them: kblam ask --kb {output} QUESTION"
    )


def info(
    folder: _Folder,
    verify: Annotated[bool, typer.Option("--verify", help="Compare all checksums, which reads every file.")] = False,
    as_json: JSONOption = False,
) -> None:
    """Show the shards in a folder, and whether their files are sound."""
    from kblam_engine.cluster import read_manifest, verify_shards

    manifest = read_manifest(folder)
    wrong = verify_shards(folder) if verify else []
    size = sum(shard.size_bytes for shard in manifest.shards)
    if as_json:
        shards = [{"folder": s.folder, "n_triples": s.n_triples, "size_bytes": s.size_bytes} for s in manifest.shards]
        facts = {"n_triples": manifest.n_triples, "size_bytes": size, "encoder": manifest.encoder, "index": manifest.index}
        print_json({**facts, "shards": shards, **({"problems": wrong} if verify else {})})
    else:
        rows = [[s.folder, f"{s.n_triples:,}", f"{s.size_bytes / 1e6:,.1f} MB"] for s in manifest.shards]
        print_table(["shard", "triples", "size"], rows)
        say(
            f"{manifest.n_triples:,} triples, {size / 1e6:,.1f} MB, encoder {manifest.encoder}, index {manifest.index}"
        )
        for line in wrong:
            say(line, err=True)
        if verify and not wrong:
            say("all files are as they were written")
    if wrong:
        raise typer.Exit(1)


def push(
    folder: _Folder,
    url: _Address,
    everything: Annotated[
        bool, typer.Option("--all", help="Send every file, those too that are there, where one of them was damaged.")
    ] = False,
    as_json: JSONOption = False,
) -> None:
    """Put shards on an object store, or what is missing of them there.

    Readers see the shards from before until all of these are there. One push to an address at a time.
    """
    from kblam_engine.cluster.transfer import push_shards

    with _progress(as_json) as progress:
        report = push_shards(folder, url, everything=everything, progress=progress)
    if as_json:
        print_json(report.to_dict())
        return
    removed = f", {many(len(report.removed), 'file')} of before deleted" if report.removed else ""
    say(
        f"{many(report.manifest.n_triples, 'triple')} in {many(len(report.manifest.shards), 'shard')} at {report.url}: "
        f"{len(report.sent):,} of {many(report.n_files, 'file')} sent now ({report.sent_bytes / 1e6:,.1f} MB){removed}; "
        f"get them: kblam cluster pull {report.url} FOLDER"
    )


def pull(url: _Address, folder: _Folder, as_json: JSONOption = False) -> None:
    """Get shards from an object store, or what is missing of them here.

    Every file is compared with its checksum. The shards from before are there until all of these are.
    """
    from kblam_engine.cluster.transfer import pull_shards

    with _progress(as_json) as progress:
        report = pull_shards(url, folder, progress=progress)
    if as_json:
        print_json(report.to_dict())
        return
    say(
        f"{many(report.manifest.n_triples, 'triple')} in {many(len(report.manifest.shards), 'shard')} in {folder}: "
        f"{len(report.fetched):,} of {many(report.n_files, 'file')} fetched now ({report.fetched_bytes / 1e6:,.1f} MB); "
        f"ask them: kblam ask --kb {folder} QUESTION"
    )


def serve(
    folder: _Folder,
    address: Annotated[
        str | None,
        typer.Option(
            "--address", help="Ray cluster: auto, or host:port of its head; default: this machine.", show_default=False
        ),
    ] = None,
    replicas: Annotated[int, typer.Option("--replicas", min=1, help="Copies of the model.")] = 1,
    host: Annotated[str, typer.Option("--host", help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option("--port", min=1, max=65_535, help="And its port.")] = 8000,
    model: ModelOption = DEFAULT_MODEL,
    adapter: AdapterOption = None,
    dtype: DtypeOption = None,
    device: DeviceOption = None,
    index: IndexOption = "auto",
) -> None:
    """Answer over HTTP from shards, until Ctrl-C.

    POST / with {"question": "..."} or {"messages": [...]}. Nobody is asked who they are.
    """
    from kblam_engine.cluster.ray_cluster import LOCAL, connected
    from kblam_engine.cluster.serving import serve_shards, stop_serving

    options = {"model": model, "adapter": adapter, "dtype": dtype, "device": device, "index": index}
    place = str(folder.absolute())
    with connected(address or LOCAL) as ray:
        serve_shards(ray, place, options, replicas=replicas, host=host, port=port)
        say(f"answering at http://{host}:{port}/ - Ctrl-C ends it", err=True)
        try:
            threading.Event().wait()
        finally:
            stop_serving(place, port)


def _progress(quiet: bool) -> AbstractContextManager[Callable[[str, int, int], None]]:
    """Return what shows how far a command is, on a terminal alone."""
    return nullcontext(lambda *_: None) if quiet or not sys.stderr.isatty() else progress_bar()


@contextmanager
def _workers(address: str | None, n: int | None) -> Iterator[Workers]:
    """Provide those who do the work; a cluster that is started here ends with the build."""
    from kblam_engine.cluster.workers import Here

    if address is None and n == 1:
        yield Here()
        return
    from kblam_engine.cluster.ray_cluster import LOCAL, RayWorkers, connected

    with connected(address or LOCAL, n if address is None else None) as ray:
        yield RayWorkers(ray, n)
