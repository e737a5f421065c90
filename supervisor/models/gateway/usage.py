"""Reads what a call has used from the answer of a provider, and computes its cost.

All shapes become the same numbers: `input` is what no cache had, so that the sum of all is what the provider bills.
Fields that are missing or of another type count as 0: a provider may leave out what it likes.
"""

from collections.abc import Mapping

from msgspec import Struct

from corral.supervisor.config.declared.models import Kind, Prices

MILLION = 1_000_000


class Usage(Struct, frozen=True, kw_only=True):
    """Holds numbers of tokens: of input, of input read from and written to the provider's cache, and of output."""

    input: int = 0
    cached: int = 0
    cache_write: int = 0
    output: int = 0

    @property
    def tokens(self) -> int:
        """Returns the sum."""
        return self.input + self.cached + self.cache_write + self.output

    def cost_cents(self, prices: Prices) -> float:
        """Returns the cost by these prices."""
        parts = (
            self.input * prices.input,
            self.cached * prices.cached,
            self.cache_write * prices.cache_write,
            self.output * prices.output,
        )
        return sum(parts) / MILLION


def usage_of(kind: Kind, reported: object) -> Usage | None:
    """Returns what the `usage` of an answer says; None where there is none."""
    if not isinstance(reported, Mapping) or not reported:
        return None
    if kind == "gemini":
        return _gemini(reported)
    return _anthropic(reported) if kind == "anthropic" else _openai(reported)


def _openai(reported: Mapping[str, object]) -> Usage | None:
    """Reads both namings: of chat and embeddings, and of responses; cached tokens are among those of the prompt."""
    if "prompt_tokens" in reported or "completion_tokens" in reported:
        whole, output, details = "prompt_tokens", "completion_tokens", "prompt_tokens_details"
    elif "input_tokens" in reported or "output_tokens" in reported:
        whole, output, details = "input_tokens", "output_tokens", "input_tokens_details"
    else:
        return None
    cached = _count(reported.get(details), "cached_tokens")
    asked = _count(reported, whole)
    cached = min(cached, asked)
    return Usage(input=asked - cached, cached=cached, output=_count(reported, output))


def _anthropic(reported: Mapping[str, object]) -> Usage:
    """Reads the counts of a message, where each part of the input is counted by itself."""
    return Usage(
        input=_count(reported, "input_tokens"),
        cached=_count(reported, "cache_read_input_tokens"),
        cache_write=_count(reported, "cache_creation_input_tokens"),
        output=_count(reported, "output_tokens"),
    )


def _gemini(reported: Mapping[str, object]) -> Usage:
    """Reads `usageMetadata`: cached tokens are among those of the prompt, thoughts are not among those of the candidates."""
    asked = _count(reported, "promptTokenCount")
    cached = min(_count(reported, "cachedContentTokenCount"), asked)
    return Usage(
        input=asked - cached + _count(reported, "toolUsePromptTokenCount"),
        cached=cached,
        output=_count(reported, "candidatesTokenCount") + _count(reported, "thoughtsTokenCount"),
    )


def _count(table: object, key: str) -> int:
    value = table.get(key) if isinstance(table, Mapping) else None
    return value if isinstance(value, int) and not isinstance(value, bool) and value > 0 else 0
