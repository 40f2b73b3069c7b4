"""``wherry tag``."""

from __future__ import annotations

from wherry.cli.flags import Command, Failure, Invocation
from wherry.client.http import quote
from wherry.spec.reference import InvalidReference, Reference, parse


def run(invocation: Invocation) -> int:
    source, target = invocation.arguments
    if len(source) != 64:  # those are an id, or no name either
        _parsed(source)
    reference = _parsed(target).with_default_tag()
    if reference.digest is not None:
        raise Failure("refusing to create a tag with a digest reference")
    invocation.program.engine.post(f"/images/{quote(source, b'/:@')}/tag", {"repo": reference.familiar_name, "tag": reference.tag})
    return 0


def _parsed(text: str) -> Reference:
    try:
        return parse(text)
    except InvalidReference as error:
        raise Failure(f'Error parsing reference: "{text}" is not a valid repository/tag: {error}') from None


COMMAND = Command(
    "SOURCE_IMAGE[:TAG] TARGET_IMAGE[:TAG]",
    "Create a tag TARGET_IMAGE that refers to SOURCE_IMAGE",
    run,
    minimum=2,
    maximum=2,
    interspersed=False,
)
