"""``wherry push``."""

from __future__ import annotations

from wherry.cli.flags import Command, Failure, Flag, Invocation
from wherry.cli.platforms import platform_query
from wherry.cli.progress import Display, show_stream
from wherry.cli.registry_auth import auth_headers, read_reference
from wherry.client.http import quote

NOTE = """
 Info -> Using --platform pushes only the specified platform manifest of a multi-platform image index.
         Other components, like attestations, will not be included.
         To push the complete multi-platform image, remove the --platform flag.
         """


def run(invocation: Invocation) -> int:
    query = {"platform": platform_query(invocation.text("platform"), "Invalid platform " + invocation.text("platform"))}
    if query["platform"]:
        print(NOTE, flush=True)
    reference = read_reference(invocation.arguments[0])
    everything = invocation.flag("all-tags")
    quiet = invocation.flag("quiet")
    if everything and not reference.is_name_only:
        raise Failure("tag can't be used with --all-tags/-a")
    if not everything and reference.is_name_only:
        reference = reference.with_default_tag()
        if not quiet:
            print("Using default tag: latest", flush=True)
    if not everything and reference.tag is None:
        raise Failure("cannot push a digest reference")
    headers = auth_headers(invocation.program, reference.domain, needed=True)
    engine = invocation.program.engine
    path = f"/images/{quote(reference.familiar_name, b'/:')}/push"
    query["tag"] = None if everything else reference.tag
    response = engine.stream("POST", path, query, headers=headers)
    if quiet:
        Display(len).show_all(response)
        engine.done(response)
        print(reference)
    else:
        show_stream(engine, response)
    return 0


COMMAND = Command(
    "[OPTIONS] NAME[:TAG]",
    "Upload an image to a registry",
    run,
    flags=(
        Flag("all-tags", "bool", "Push all tags of an image to the repository", short="a"),
        Flag("disable-content-trust", "bool", "Skip image signing", default=True, refused="Notary trust is not kept"),
        Flag("platform", "string", "Push a platform-specific manifest as a single-platform image"),
        Flag("quiet", "bool", "Suppress verbose output", short="q"),
    ),
    minimum=1,
    maximum=1,
)
