"""``tow serve``: a project, a store, or a bare model file, over HTTP and gRPC."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from towpath.cli.options import project_option
from towpath.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Callable

    from towpath.serving.worker import Ports


@click.command("serve")
@click.argument("file", required=False, type=click.Path(path_type=Path, dir_okay=True))
@click.option(
    "--host", default=None, help="Loopback unless given; beyond it consumer keys are needed, or --insecure-open."
)
@click.option("--port", type=click.IntRange(0, 65_535), default=None, help="HTTP; 0 takes a free one.")
@click.option("--grpc-port", type=click.IntRange(0, 65_535), default=None, help="gRPC; 0 takes a free one.")
@click.option("--workers", type=click.IntRange(1, 64), default=None, help="Processes that answer.")
@click.option(
    "--store", "store", default=None, metavar="URL", help="Serve the models of this object store; no project is needed."
)
@click.option("--online", default=None, metavar="URL", help="With --store: the online store.")
@click.option(
    "--keys",
    type=click.Path(path_type=Path, file_okay=False),
    default=None,
    help="With --store: folder of the public keys that are trusted.",
)
@click.option("--model", "models", multiple=True, help="Only these models; all unless given.")
@click.option("--name", default="", help="With FILE: what the model is called; the file's stem unless given.")
@click.option(
    "--state",
    type=click.Path(path_type=Path, file_okay=False),
    default=None,
    help="Where journal and caches go; with FILE a temporary folder unless given.",
)
@click.option("--trust-pickle", is_flag=True, help="With FILE: load a pickle, which can run anything. Loopback only.")
@click.option(
    "--compile",
    type=click.Choice(["onnx"]),
    default=None,
    help="With FILE: serve its ONNX form, where it answers the same.",
)
@click.option("--insecure-open", is_flag=True, help="Bind beyond loopback without keys.")
@project_option
def command(file: Path | None, project: Path, **given: Any) -> None:
    """Serve the project's models, or one model FILE with no project at all.

    Answers /predict/MODEL, /outcomes/MODEL, /metrics and the Open Inference Protocol (/v2/…, and gRPC). SIGTERM drains.
    """
    from towpath.serving.logs import configure

    configure()
    if file is not None and given["store"]:
        raise InputError("FILE and --store are two ways; take one.", mend="tow serve FILE, or tow serve --store URL")
    try:
        if file is not None:
            code = _serve_file(file, given)
        else:
            code = _serve_store(given) if given["store"] else _serve_project(project, given)
    except KeyboardInterrupt:  # told to stop before anybody was let in: there is nothing to drain
        code = 0
    raise click.exceptions.Exit(code)


def _settings(base: Any, given: dict[str, Any]) -> Any:
    import msgspec

    names = ("host", "port", "grpc_port", "workers")
    return msgspec.structs.replace(base, **{name: given[name] for name in names if given[name] is not None})


def _serve_file(file: Path, given: dict[str, Any]) -> int:
    from towpath.serving.server import serve_file
    from towpath.settings import without_project

    settings = _settings(without_project().serving, given)
    return serve_file(
        file,
        settings=settings,
        name=given["name"],
        trust_pickle=given["trust_pickle"],
        compile=given["compile"],
        state=given["state"],
        insecure_open=given["insecure_open"],
        on_ready=_saying(settings),
        on_state=lambda folder: click.echo(f"state: {folder}"),
    )


def _serve_store(given: dict[str, Any]) -> int:
    from towpath.serving.server import serve_store
    from towpath.settings import without_project

    settings = without_project()
    stores, serving = settings.stores, _settings(settings.serving, given)
    here = Path.cwd()
    folder = here / given["store"].removeprefix("file://")
    if ("://" not in given["store"] or given["store"].startswith("file://")) and not folder.is_dir():
        raise InputError(
            f"There is no store in '{folder}'.", "--store", "the folder or URL that a project publishes to"
        )
    keys = given["keys"] or here / stores.keys
    if not any(keys.glob("*.pub")):
        raise InputError(
            f"'{keys}' holds no public key, so no version could be trusted.",
            "--keys",
            "copy the .pub files of .towpath/keys from the project that publishes",
        )
    return serve_store(
        serving,
        objects_url=given["store"],
        online_url=given["online"] or stores.online,
        online_timeout_ms=stores.online_timeout_ms,
        keys=keys,
        pepper=stores.pepper,
        folder=here,
        state=given["state"],
        environment=settings.environment,
        models=given["models"],
        insecure_open=given["insecure_open"],
        on_ready=_saying(serving),
    )


def _serve_project(project: Path, given: dict[str, Any]) -> int:
    from towpath.platform import Platform
    from towpath.serving.server import serve_store
    from towpath.settings import secret

    with Platform.open(project) as platform:
        stores, serving = platform.settings.stores, _settings(platform.settings.serving, given)
        return serve_store(
            serving,
            objects_url=secret(stores.objects, platform.folder, platform.variables),
            online_url=secret(stores.online, platform.folder, platform.variables),
            online_timeout_ms=stores.online_timeout_ms,
            keys=platform.keys,
            pepper=stores.pepper,
            folder=platform.folder,
            state=given["state"],
            environment=platform.settings.environment,
            models=given["models"],
            insecure_open=given["insecure_open"],
            clock=platform.clock,
            on_ready=_saying(serving),
        )


def _saying(settings: Any) -> "Callable[[Ports], None]":
    scheme, secure = ("https", ", TLS") if settings.tls_cert else ("http", "")

    def say(ports: "Ports") -> None:
        click.echo(f"http: {scheme}://{ports.host}:{ports.http}")
        click.echo(f"grpc: {ports.host}:{ports.grpc}{secure}")

    return say
