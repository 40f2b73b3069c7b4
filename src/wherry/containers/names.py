"""Names for containers that were given none: an adjective and a word of the river."""

from __future__ import annotations

import secrets
from collections.abc import Callable

ADJECTIVES = (
    "agile amber ample bold brave bright brisk calm candid cheery clear clever cosy crisp daring deft eager early easy fair "
    "firm fleet fond frank fresh gentle glad golden grand hardy honest humble jolly keen kind light lively loyal lucky mellow "
    "merry mild modest neat nimble noble patient plucky polite proud quick quiet ready robust rosy rural sage serene sharp "
    "silent silver sleek smart smooth snug sober solid spry steady sturdy sunny sure swift tidy trim true trusty upbeat vivid "
    "warm wise witty zesty"
).split()
WORDS = (
    "anchor barge beacon bight bollard boom bow bridge brook buoy cable canal capstan cargo channel cleat coaster coracle "
    "cove creek current cutter deck delta dinghy dock eddy estuary ferry float fjord ford galley gangway gig gull harbour "
    "hawser heron hull inlet isle jetty jib keel ketch kayak lagoon landing launch levee lighter lock lugger marina mast "
    "mooring narrows oar otter paddle pier pilot pinnace ponton port prow punt quay raft reach reed rigging ripple rudder "
    "sail scow shoal shore skiff sloop slip spar stern stream strand swan tackle thames tide tiller towpath trawler tug wake "
    "weir wharf wherry willow winch yawl"
).split()


def generate(is_free: Callable[[str], bool]) -> str:
    """A name nobody has; a digit is appended once plain pairs were taken a few times."""
    attempt = 0
    while True:
        name = f"{secrets.choice(ADJECTIVES)}_{secrets.choice(WORDS)}"
        if attempt >= 5:
            name += str(secrets.randbelow(10 ** (attempt - 4)))
        if is_free(name):
            return name
        attempt += 1
