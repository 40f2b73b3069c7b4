"""``images --tree``, against what Docker's command line printed for the same images."""

from __future__ import annotations

from wherry.cli.image_tree import WARNING, lines

IMAGES = [
    {"Id": "sha256:9052a27f72eecedb0a1c", "RepoTags": ["cmp-arm:1"], "Size": 1982687, "Created": 3, "Containers": 1},
    {"Id": "sha256:3f28febf7603b8b57169", "RepoTags": ["cmp-a:1", "cmp-a:latest", "cmp-a:zz"], "Size": 1995532, "Created": 2},
    {"Id": "sha256:adb19e845fa00acff5b8", "RepoTags": [], "Size": 0, "Created": 1},
]


def test_every_name_has_a_line_and_the_last_one_the_figures() -> None:
    assert list(lines(IMAGES, 80, colored=False)) == [
        WARNING,
        "                                                              Info ->  U In Use ",
        "",
        "IMAGE          ID             DISK USAGE   CONTENT SIZE   EXTRA",
        "cmp-arm:1      9052a27f72ee       1.98MB             0B   U    ",
        "cmp-a:latest",
        "cmp-a:zz",
        "cmp-a:1        3f28febf7603          2MB             0B        ",
        "<untagged>     adb19e845fa0           0B             0B        ",
    ]


def test_names_and_last_columns_give_way_to_a_narrow_terminal() -> None:
    assert list(lines(IMAGES, 60, colored=False))[3] == "IMAGE          ID             DISK USAGE   CONTENT SIZE"
    long = {"Id": "sha256:9052a27f72eecedb0a1c", "RepoTags": ["registry.example:5000/team/image:1"], "Size": 1, "Created": 3}
    assert list(lines([long], 80, colored=False))[4] == "registry.example:5000/team/image:1"


def test_a_name_cannot_drive_the_terminal() -> None:
    text = "\n".join(lines([{**IMAGES[0], "RepoTags": ["a\x1b[2J:1"]}], 80, colored=True))
    assert "\\x1b[2J" in text
