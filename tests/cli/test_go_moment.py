"""Times in templates, as Docker's command line showed the same one."""

from __future__ import annotations

import pytest

from wherry.cli.go_moment import moment
from wherry.cli.template import Template
from wherry.cli.template_values import Record

WHEN = "2026-11-29T07:28:13.418275935Z"


def shown(layout: str, text: str = WHEN) -> str:
    return Template(layout).render(Record({"At": moment(text)}))


@pytest.mark.parametrize(
    ("layout", "expected"),
    [
        ("{{.At}} {{json .At}}", '2026-11-29 07:28:13.418275935 +0000 UTC "2026-11-29T07:28:13.418275935Z"'),
        ('{{.At.Format "2006-01-02 15:04:05"}}', "2026-11-29 07:28:13"),
        ('{{.At.Format "Mon Monday Jan January _2 2 06 1 MST"}}', "Sun Sunday Nov November 29 29 26 11 UTC"),
        ('{{.At.Format "3:4:5 PM 03 pm .000 x.999 05.000000 ,000"}}', "7:28:13 AM 07 am .418 x.418 13.418275 ,418"),
        (
            '{{.At.Format "Z07:00 -0700 -07:00 2006-01-02T15:04:05.999999999Z07:00"}}',
            "Z +0000 +00:00 2026-11-29T07:28:13.418275935Z",
        ),
        ('{{.At.Format "20060102"}}', "20261129"),
        ("{{.At.Unix}} {{.At.UnixMilli}} {{.At.UnixNano}}", "1795937293 1795937293418 1795937293418275935"),
        (
            "{{.At.Year}} {{.At.YearDay}} {{.At.Hour}} {{.At.Nanosecond}} {{.At.Month}} {{.At.Weekday}} {{.At.IsZero}}",
            "2026 333 7 418275935 November Sunday false",
        ),
        ("{{.At.UTC}}", "2026-11-29 07:28:13.418275935 +0000 UTC"),
    ],
)
def test_a_time_is_shown_as_go_shows_it(layout: str, expected: str) -> None:
    assert shown(layout) == expected


def test_no_time_and_the_zero_time() -> None:
    assert shown("{{.At.IsZero}} {{.At.Unix}}", "0001-01-01T00:00:00Z") == "true -62135596800"
    for text in ("", "yesterday", "2026-13-41T00:00:00Z"):
        assert shown("{{.At}}", text) == text
