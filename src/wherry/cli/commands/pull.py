"""``wherry pull``."""

from __future__ import annotations

from wherry.cli.flags import Command, Failure, Flag, Invocation
from wherry.cli.progress import Display, show_stream
from wherry.cli.registry_auth import auth_headers, read_reference


def run(invocation: Invocation) -> int:
    reference = read_reference(invocation.arguments[0])
    everything = invocation.flag("all-tags")
    if everything and not reference.is_name_only:
        raise Failure("tag can't be used with --all-tags/-a")
    quiet = invocation.flag("quiet")
    if not everything and reference.is_name_only:
        reference = reference.with_default_tag()
        if not quiet:
            print("Using default tag: latest", flush=True)
    tag = reference.digest or reference.tag
    query = {"fromImage": reference.familiar_name, "tag": None if everything else tag, "platform": invocation.text("platform") or None}
    engine = invocation.program.engine
    response = engine.stream("POST", "/images/create", query, headers=auth_headers(invocation.program, reference.domain))
    if quiet:
        Display(len).show_all(response)
        engine.done(response)
    else:
        show_stream(engine, response)
    print(reference)
    return 0


COMMAND = Command(
    "[OPTIONS] NAME[:TAG|@DIGEST]",
    "Download an image from a registry",
    run,
    flags=(
        Flag("all-tags", "bool", "Download all tagged images in the repository", short="a"),
        Flag("disable-content-trust", "bool", "Skip image verification", default=True, refused="Notary trust is not kept"),
        Flag("platform", "string", "Set platform if server is multi-platform capable"),
        Flag("quiet", "bool", "Suppress verbose output", short="q"),
    ),
    minimum=1,
    maximum=1,
)
