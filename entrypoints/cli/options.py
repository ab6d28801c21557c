"""Options that several commands have, each spelled once."""

from collections.abc import Callable
from typing import Final, TypeVar

import msgspec
import rich_click as click
from msgspec import Raw

from domain.language.errors import InvalidInput
from domain.language.identifiers import POSITION_MAX
from entrypoints.runtime.durations import parse_duration

F = TypeVar("F", bound=Callable[..., object])

at_option: Final = click.option(
    "--at",
    "position",
    type=click.IntRange(1, POSITION_MAX),
    metavar="POSITION",
    help="As of this position, such as that of a head you have kept. Default: the latest one.",
)


class Duration(click.ParamType[float]):
    """A length of time, like 90d, 12h, 30m or 45s, in seconds."""

    name = "duration"

    def convert(
        self, value: str | float, param: click.Parameter | None, ctx: click.Context | None
    ) -> float:
        if isinstance(value, float):
            return value
        try:
            return float(parse_duration(str(value)))
        except ValueError as error:
            self.fail(str(error), param, ctx)


DURATION: Final = Duration()


def limit_option(
    default: int, text: str, *, name: str = "limit", most: int | None = None
) -> Callable[[F], F]:
    """Return `--limit N`, from 1 to `most` (None: any number), passed as the parameter `name`."""
    return click.option(
        "--limit",
        name,
        type=click.IntRange(1, most),
        default=default,
        show_default=True,
        metavar="N",
        help=text,
    )


def format_option(*choices: str, text: str) -> Callable[[F], F]:
    """Return `--format`, by default the first of the choices, passed as the parameter `form`."""
    return click.option(
        "--format",
        "form",
        type=click.Choice(choices),
        default=choices[0],
        show_default=True,
        help=text,
    )


def json_of(text: str, option: str) -> Raw:
    """Return the JSON of an option. Raises `InvalidInput` if it is none."""
    try:
        msgspec.json.decode(text)
    except (msgspec.DecodeError, UnicodeError) as error:
        raise InvalidInput(
            f"{option} is not JSON ({error}); a text needs quotes: '\"text\"'."
        ) from None
    return Raw(text.encode())
