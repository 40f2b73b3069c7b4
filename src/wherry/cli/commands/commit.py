"""``wherry commit``."""

from __future__ import annotations

from wherry.cli.flags import Command, Failure, Flag, Invocation
from wherry.client.engine import container_path


def run(invocation: Invocation) -> int:
    name, *image = invocation.arguments
    container_path(name)
    query = {
        "container": name,
        "comment": invocation.text("message"),
        "author": invocation.text("author"),
        "changes": invocation.texts("change"),
        "pause": "1" if invocation.flag("pause") else "0",
    }
    if image and image[0]:
        from wherry.cli.registry_auth import read_reference

        reference = read_reference(image[0])
        if reference.digest is not None:
            raise Failure("refusing to create a tag with a digest reference")
        query["repo"] = reference.familiar_name
        query["tag"] = reference.tag or "latest"
    print(invocation.program.engine.post("/commit", query)["Id"])
    return 0


COMMAND = Command(
    "[OPTIONS] CONTAINER [REPOSITORY[:TAG]]",
    "Create a new image from a container's changes",
    run,
    flags=(
        Flag("author", "string", "Author of the image", short="a"),
        Flag("change", "list", "Dockerfile instruction to apply to the image", short="c"),
        Flag("message", "string", "Commit message", short="m"),
        Flag("pause", "bool", "Pause the container meanwhile", short="p", default=True),
    ),
    minimum=1,
    maximum=2,
)
