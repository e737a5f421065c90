"""A function that is an agent."""


def double(number: int) -> int:
    """Returns twice the number."""
    return 2 * number
