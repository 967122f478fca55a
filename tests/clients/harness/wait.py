"""Waiting with a deadline: every wait of these tests names what it waits for and for how long."""

import time

# Between two looks at a condition. Short, since most conditions come true within milliseconds.
LOOK_EVERY_S = 0.02


class Late(AssertionError):
    """The condition did not come true in time."""


def until(condition, what, limit_s=15.0, every_s=LOOK_EVERY_S):
    """Returns the first true value of `condition()`; raises Late with the last value seen.

    `what` is text, or a function that gives the text when it is needed.
    """
    deadline = time.monotonic() + limit_s
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() > deadline:
            text = what() if callable(what) else what
            raise Late(f"not within {limit_s:g} s: {text} (last seen: {value!r})")
        time.sleep(every_s)


def let_pass(seconds, why):
    """Lets time itself pass, where time is the very input (an expiry, a delay): `why` says which."""
    assert why
    time.sleep(seconds)
