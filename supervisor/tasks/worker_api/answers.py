"""Decides which words answer a question: pure functions of the question and the words."""

import hashlib
from collections.abc import Sequence

from corral.worker.contract.approvals import Approval, AskParams
from corral.worker.contract.errors import InvalidParams

ALLOW = ("allow", "yes", "approve", "ok")
DENY = ("deny", "no", "reject", "refuse")


def answer_of(words: str, options: Sequence[str], approval: int) -> str:
    """Returns the option that `words` name, in any case; the words themselves where there are no options.

    A word of consent means the option of consent, whichever of the words it has; so does one of refusal.
    """
    if not options:
        return words
    if words in options:
        return words
    lowered = {option.lower(): option for option in options}
    asked = words.strip().lower()
    for each in (asked, *next((same for same in (ALLOW, DENY) if asked in same), ())):
        if each in lowered:
            return lowered[each]
    text = f'cannot answer {approval} with "{words[:100]}": its answers are {", ".join(options)}'
    raise InvalidParams(text, key="answer", value=words[:100], options=list(options))


def check_decline(question: Approval) -> None:
    """Refuses to decline what is no question of a form."""
    if not question.can_decline:
        text = f"cannot decline {question.id}: it belongs to no form, and can only be answered"
        raise InvalidParams(text, key="answer", value=None, options=list(question.options))


def check_question(asked: AskParams) -> None:
    """Refuses a question that no answer could end as it says."""
    if len({option.lower() for option in asked.options}) < len(asked.options):
        text = "cannot ask: two options differ in nothing but their case"
        raise InvalidParams(text, key="options", value=asked.options)
    if asked.options and asked.default is not None and asked.default not in asked.options:
        text = f'cannot ask: the default "{asked.default[:100]}" is none of the options'
        raise InvalidParams(text, key="default", value=asked.default[:100])


def key_of(asked: AskParams) -> str:
    """Returns the key by which a task knows its question again."""
    if asked.key is not None:
        return asked.key
    words = "\0".join((asked.question, *asked.options))
    return f"#{hashlib.sha256(words.encode('utf-8', 'surrogatepass')).hexdigest()[:32]}"
