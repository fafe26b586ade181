"""Words for the person at the keyboard: the one error that is meant for them, and short notes."""

import sys
from collections.abc import Collection, Iterable
from difflib import get_close_matches
from functools import cache


class UserError(ValueError):
    """Bad input, in one sentence: what was given, what was expected, what to do."""

    def _render_traceback_(self) -> list[str]:
        """What a notebook shows instead of a traceback: the sentence (IPython's hook)."""
        return [f"{type(self).__name__}: {self}"]


def nearest(name: object, known: Iterable[object]) -> str:
    """A hint to append to an error: the known names closest to `name`, or "" when none is close.

    name: str. known: iterable of str. Returns e.g. " Did you mean 'x' or 'y'?".
    """
    by_lower = {str(k).lower(): str(k) for k in known}
    close = get_close_matches(str(name).lower(), by_lower, n=3, cutoff=0.5)
    if not close:
        return ""
    return " Did you mean " + " or ".join(f"'{by_lower[c]}'" for c in close) + "?"


def one_of(name: str, value: object, known: Collection[str]) -> None:
    """Raise UserError unless `value`, of the option `name`, is one of `known`."""
    if value not in known:
        raise UserError(f"{name} is {value!r}; choose one of {', '.join(known)}.{nearest(value, known)}")


def note(message: str) -> None:
    """One line for the person at the keyboard, on stderr, about something that did not stop the run."""
    print(message, file=sys.stderr, flush=True)


@cache
def note_once(message: str) -> None:
    """The same, once a process."""
    note(message)


def some(names: Iterable[object], most: int = 5) -> str:
    """At most `most` of the names, and how many more there are: "a, b, c and 12 more"."""
    words = [str(n) for n in names]
    rest = len(words) - most
    return ", ".join(words[:most]) + (f" and {rest} more" if rest > 0 else "")
