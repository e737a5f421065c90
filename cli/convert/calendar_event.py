"""Translates calendar events of systemd (`OnCalendar=`) to cron, where cron can say them."""

import re

SHORT = {
    "minutely": "* * * * *",
    "hourly": "0 * * * *",
    "daily": "0 0 * * *",
    "weekly": "0 0 * * 1",
    "monthly": "0 0 1 * *",
    "quarterly": "0 0 1 1,4,7,10 *",
    "semiannually": "0 0 1 1,7 *",
    "yearly": "0 0 1 1 *",
    "annually": "0 0 1 1 *",
}
LARGEST = {"minute": 59, "hour": 23, "day": 31, "month": 12}
DAYS = ("sun", "mon", "tue", "wed", "thu", "fri", "sat")
_EVENT = re.compile(
    r"(?:(?P<days>[A-Za-z][A-Za-z.,-]*)\s+)?"
    r"(?:(?:\*-)?(?P<month>[\d*.,/]+)-(?P<day>[\d*.,/]+)\s+)?"
    r"(?P<hour>[\d*.,/]+):(?P<minute>[\d*.,/]+)(?::(?P<second>[\d*.,/]+))?(?:\s+UTC)?"
)
_DATE_ONLY = re.compile(r"(?:[A-Za-z][A-Za-z.,-]*)|(?:(?:[A-Za-z][A-Za-z.,-]*\s+)?\*-[\d*.,/]+-[\d*.,/]+)")


def crons(event: str) -> list[str]:
    """Returns the cron expression of an event, in a list; an empty list where cron cannot say it."""
    text = " ".join(event.split())
    if text.lower() in SHORT:
        return [SHORT[text.lower()]]
    if _DATE_ONLY.fullmatch(text):
        text += " 00:00:00"
    found = _EVENT.fullmatch(text)
    if found is None:
        return []
    days = _days(found["days"])
    fields = [_field(found[name] or "*", most) for name, most in LARGEST.items()]
    seconds = _field(found["second"] or "0", 59)
    if days is None or seconds is None or None in fields:
        return []
    if fields[2] != "*" and days != "*":
        return []  # systemd wants both, cron takes either
    plain = " ".join([*map(str, fields), days])
    return [plain if seconds == "0" else f"{seconds} {plain}"]


def _field(text: str, most: int) -> str | None:
    """Returns a field of cron, whose largest value is `most`: `1..5` is `1-5`, `5/15` is `5-59/15`."""
    parts: list[str] = []
    for part in text.split(","):
        span, slash, step = part.partition("/")
        first, dots, last = span.partition("..")
        ends = [first, last] if dots else [first]
        if not all(end.isdecimal() or (end == "*" and not dots) for end in ends):
            return None
        if slash and not step.isdecimal():
            return None
        words = [end if end == "*" else str(int(end)) for end in ends]
        if slash and not dots and words[0] != "*":
            words = ["*"] if int(words[0]) == 0 else [words[0], str(most)]
        parts.append("-".join(words) + (f"/{int(step)}" if slash else ""))
    return ",".join(parts)


def _days(text: str | None) -> str | None:
    if text is None:
        return "*"
    found: list[str] = []
    for part in text.lower().split(","):
        ends = re.split(r"\.\.|-", part)
        numbers = [DAYS.index(end[:3]) for end in ends if end[:3] in DAYS]
        if len(numbers) != len(ends) or len(numbers) > 2:
            return None
        if len(numbers) == 2 and numbers[0] > numbers[1]:
            numbers[1] += 7  # Fri..Sun: cron has 7 for Sunday
        if len(numbers) == 2 and numbers[1] > 7:
            return None
        found.append("-".join(map(str, numbers)))
    return ",".join(found)
