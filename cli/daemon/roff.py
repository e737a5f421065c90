"""Formats text as man(7): headings, paragraphs, lists of options, and the Markdown of the reference pages.

Values in, values out. Of Markdown it knows as much as docs/reference uses: headings, tables, lists, code, links.
"""

import re
from collections.abc import Iterable, Iterator, Sequence

_INLINE = re.compile(r"`(?P<code>[^`]+)`|\*\*(?P<bold>[^*]+)\*\*|\[(?P<text>(?:[^\]`]|`[^`]*`)+)\]\((?P<url>[^)]*)\)")


def escaped(text: str) -> str:
    """Returns a text that roff prints as it is; a hyphen stays a minus sign, as commands need it."""
    plain = text.replace("\\", "\\e").replace("-", "\\-").replace("'", "\\(aq").replace("`", "\\(ga")
    plain = plain.replace("~", "\\(ti").replace("^", "\\(ha")
    return "\\&" + plain if plain.startswith(".") else plain


def bold(text: str) -> str:
    """Returns a text in bold."""
    return f"\\fB{escaped(text)}\\fP"


def inline(text: str) -> str:
    """Formats a paragraph of Markdown: code and strong words in bold, links as their text."""
    pieces: list[str] = []
    end = 0
    for found in _INLINE.finditer(text):
        pieces.append(escaped(text[end : found.start()]))
        end = found.end()
        if found["text"] is not None:
            pieces.append(inline(found["text"]))
        else:
            pieces.append(bold(found["code"] or found["bold"]))
    whole = "".join([*pieces, escaped(text[end:])])
    return "\\&" + whole if whole.startswith((".", "\\(aq")) else whole


def page(name: str, section: int, title: str, version: str) -> list[str]:
    """Returns the head of a page, with its NAME."""
    head = f'.TH "{escaped(name.upper())}" "{section}" "" "corral {escaped(version)}"'
    return [head, ".nh", ".SH NAME", f"{escaped(name)} \\- {escaped(title)}"]


def heading(text: str, level: int = 1) -> str:
    """Returns a heading, of a section or below one."""
    words = re.sub(r"[`\"]", "", text)
    return f'.{"SH" if level == 1 else "SS"} "{escaped(words.upper() if level == 1 else words)}"'


def paragraphs(text: str) -> Iterator[str]:
    """Yields paragraphs, which empty lines separate."""
    for each in re.split(r"\n\s*\n", text.strip()):
        yield ".PP"
        yield inline(" ".join(each.split()))


def terms(pairs: Iterable[tuple[str, str]]) -> Iterator[str]:
    """Yields a list of terms, such as options, with their explanations."""
    for term, text in pairs:
        yield ".TP"
        yield bold(term)
        yield inline(" ".join(text.split())) or "\\&"


def verbatim(lines: Sequence[str]) -> list[str]:
    """Returns lines that stay as they are."""
    return [".PP", ".RS 4", ".nf", *(escaped(line) or "\\&" for line in lines), ".fi", ".RE"]


def markdown(text: str) -> Iterator[str]:
    """Yields the body of a reference page; its first heading is left out."""
    blocks = iter(re.split(r"\n(?=```|#)|\n\s*\n", re.sub(r"<!--.*?-->", "", text, flags=re.DOTALL)))
    for block in blocks:
        lines = [line for line in block.strip("\n").split("\n") if line.strip() or block.startswith("```")]
        if not lines:
            continue
        if lines[0].startswith("```"):
            while "```" not in (line.strip() for line in lines[1:]):  # an empty line cut it
                lines += ["", *next(blocks, "```").strip("\n").split("\n")]
            end = 1 + [line.strip() for line in lines[1:]].index("```")
            yield from verbatim(lines[1:end])
            yield from markdown("\n".join(lines[end + 1 :]))
        elif found := re.match(r"(#+) (.*)", lines[0]):
            if len(found[1]) > 1:
                yield heading(found[2], len(found[1]) - 1)
            yield from markdown("\n".join(lines[1:]))
        elif lines[0].startswith("|"):
            yield from _table(lines)
        elif lines[0].startswith(("- ", "* ")):
            for item in re.split(r"\n[-*] ", "\n".join(lines)[2:]):
                yield ".IP \\(bu 2"
                yield inline(" ".join(item.split()))
        elif lines[0].startswith("    "):
            yield from verbatim([line[4:] for line in lines])
        else:
            yield from paragraphs("\n".join(lines))


def _table(lines: Sequence[str]) -> Iterator[str]:
    """Yields a table as a list: the first cell is the term, the longest column its explanation."""
    rows = [_cells(line) for line in lines if not re.fullmatch(r"[|\s:-]+", line)]
    header, body = rows[0], rows[1:]
    about = header.index("meaning") if "meaning" in header else len(header) - 1
    for row in body:
        facts = [
            f"{header[n]}: {cell}" if header[n] else cell
            for n, cell in enumerate(row)
            if n not in (0, about) and cell not in ("", "`-`", "-")
        ]
        yield ".TP"
        yield inline(row[0])
        yield inline(
            ". ".join([*([row[about]] if about < len(row) and about else []), "; ".join(facts)]).strip(". ") + "."
        )


def _cells(line: str) -> list[str]:
    return [cell.strip().replace("\\|", "|") for cell in re.split(r"(?<!\\)\|", line.strip().strip("|"))]
