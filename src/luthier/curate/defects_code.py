"""Code without a fence that stops in the middle of a statement, seen by the last line against the lines before it."""

import ast
import re
import warnings
from collections.abc import Iterator
from typing import Final

from luthier.curate.pair import Evidence, Pair

LONGEST: Final = 8000  # characters of code that is looked at
_CLOSED: Final = re.compile(r"[)\]};:>`]\s*\Z")
_PYTHON: Final = re.compile(
    r"^[ \t]*(?:def \w+\(|class \w+[(:]|import \w[\w.]*(?: as \w+)?[ \t]*$|from [\w.]+ import |print\(|(?:for"
    r"|while|if|with)"
    r" [^;{]*:[ \t]*$)",
    re.MULTILINE,
)
_NO_PYTHON: Final = re.compile(
    r"[;{][ \t]*$|^[ \t]*(?:end|fi|done|then|do|let|const|var|function|\$\w|</?\w|#include)\b", re.M
)
_OLD_PRINT: Final = re.compile(r"^[ \t]*print[ \t]+[\"'\w]", re.MULTILINE)
# A last line that may be code: prose behind code is no statement that was cut.
_LIKE_CODE: Final = re.compile(
    r"[ \t]*(?:(?:def|class|import|from|while|elif|else|return|yield|try|except|assert|raise|lambda|async|await"
    r"|global|del)\b"
    r"|for \w+(?:, ?\w+)*(?: in\b.*)?\Z|(?:if|with|in|not) ?\S+(?: (?:==|!=|<=?|>=?|in|not|is|and|or|as|%)(?: \S+)*)?\Z"
    r"|.*[=(\[{.\"'+*/%<>-]|\w+\Z)"
)
_SEMICOLON: Final = re.compile(r"[;{},:(]\s*(?://.*|/\*.*\*/)?\Z|\A\s*(?:[)}\]]|//|/?\*|#|@|<|case\b|default\b)")
_COMMENT: Final = re.compile(r"\s*(?://|/?\*|#|--|<!--|%|'|\"\"\")")
_DECLARES: Final = re.compile(
    r"[ \t]*(?:(?:public|private|protected|static|final|inline|extern|virtual|async|export|unsigned|const|let|var"
    r"|func|fn"
    r"|function|void|int|long|double|float|char|bool|boolean|string|auto|struct|interface|enum|namespace"
    r"|template)[ \t]+)+"
    r"[\w:<>*&\[\], ]*\w\Z",
    re.IGNORECASE,
)
_WANTED: Final = re.compile(
    r"\b(?:complete|continue|finish|fill|signature|declar|prototype|snippet of|one-?liner|expression"
    r"|variable name)\w*\b",
    re.I,
)
_BEGINS: Final = re.compile(
    r"\s*(?:#!.*\s*|<\?php\s*)?(?:(?:#include\b.*|using [\w.]+;?|package [\w.]+;?|import [\w.*{}, ]+;?"
    r"|from [\w.]+ import [\w, ]+"
    r"|use [\w:\\]+;?)\s+)*(?:(?:#!.*|<\?php|#include.*|using|import|from|package)[\w .<]*|(?:(?:def|function|func"
    r"|fn|public|private"
    r"|protected|static|final|class|int|void|const|let|var|long|double|bool|boolean|char|String)[ \t]+)+\w*|def"
    r"|function|class)\s*"
)
_ONE_LINE: Final = re.compile(
    rf"{_WANTED.pattern}|\b(?:name|keyword|import|include|shebang|package|librar|modul|header|which|what|line"
    rf"|statement)\w*\b",
    re.I,
)
_C_LIKE: Final = re.compile(r"[;{}][ \t]*$", re.MULTILINE)
_SHELL: Final = re.compile(r"\A\s*#!.*\b(?:ba|z|k)?sh\b")
_BLOCKS: Final = ((re.compile(r"^[ \t]*if\b", re.M), re.compile(r"(?:^|;)[ \t]*fi\b", re.M)),
                  (re.compile(r"(?:^|;)[ \t]*do\b", re.M), re.compile(r"(?:^|;|\s)done\b", re.M)),
                  (re.compile(r"^[ \t]*case\b", re.M), re.compile(r"(?:^|;)[ \t]*esac\b", re.M)))  # fmt: skip
_ESCAPED: Final = re.compile(r"\\.|'[^']*'|\"(?:\\.|[^\"\\])*\"")


def _ends_in_statement(pair: Pair) -> str:
    """The code of an answer that ends in a word or an operator, where that can say something; "" otherwise."""
    text = pair.answer
    if not text or len(text) > LONGEST or pair.kind == "text" or "\n" not in text.strip() or _CLOSED.search(text[-3:]):
        return ""
    if "```" in text or "```" in pair.prompt[-200:] or not pair.looks_like_code or _WANTED.search(pair.prompt):
        return ""
    return text.rstrip()


def cut_python(pair: Pair) -> Evidence | None:
    """Python that cannot be parsed only because of its last line: without it the rest can be, and it goes on openly.

    Not a defect: a last line of prose or a comment of any language, Python 2. Not caught: code that happens to be whole
    where it was cut.
    """
    code = _python(pair)
    if not code:
        return None
    head, _, line = code.rpartition("\n")
    if _COMMENT.match(line) or not _LIKE_CODE.match(line) or _parse(code) is not None or _OLD_PRINT.search(code):
        return None
    indent = line[: len(line) - len(line.lstrip())]
    if _parse(f"{code}\n{indent}    pass") is not None:  # a header without its body
        return Evidence(f"{line.strip()[-60:]!r} has no body", len(code) - len(line), len(code))
    whole = _parse(f"{head}\n{indent}pass") is not None
    rest = head.rstrip()
    while not whole and rest.endswith((",", "(", "[", "{", "\\")):  # what belongs to the last statement
        rest = rest.rpartition("\n")[0].rstrip()
        whole = bool(rest) and _parse(rest) is not None
    return Evidence(f"ends in {line.strip()[-60:]!r}", len(code) - len(line), len(code)) if whole else None


def cut_statement(pair: Pair) -> Evidence | None:
    """Code whose last line is no whole statement where the others are. For review.

    One of: nothing but what code begins with (imports, a head); a declaration that names something and stops; a last
    line without the semicolon or bracket that nearly all others have; a shell block that is not closed; a string that
    stays open; Python whose last statement does nothing (a name, an attribute), or keeps a value that nothing uses.
    Not a defect, so not flagged: comments and prose at the end; languages without such marks.
    """
    text = pair.answer
    if text and len(text) < 300 and "(" not in text and "=" not in text and _BEGINS.fullmatch(text):
        wanted = ("\n" not in text.strip() and not pair.wants_code) or _ONE_LINE.search(pair.prompt)
        return None if wanted else Evidence("nothing but the beginning of code", 0, len(text))
    code = _ends_in_statement(pair)
    if not code:
        return None
    line = code.rpartition("\n")[2]
    if _COMMENT.match(line):
        return None
    sign = next(_signs(pair, code, line), "")
    return Evidence(f"{sign}: {line.strip()[-60:]!r}", len(code) - len(line), len(code)) if sign else None


def _signs(pair: Pair, code: str, line: str) -> Iterator[str]:
    if _DECLARES.match(line):
        yield "a declaration stops"
    if _SHELL.match(code) and any(len(begin.findall(code)) > len(end.findall(code)) for begin, end in _BLOCKS):
        yield "a block stays open"
    plain = _ESCAPED.sub("", line)
    if plain.count('"') % 2 and plain.count("'") % 2 == 0:
        yield "a string stays open"
    if "//" not in line and "*/" not in line and len(_C_LIKE.findall(code)) > 1 and line.count(" ") < 8:
        lines = [one for one in code.split("\n")[:-1] if one.strip()]
        if not _SEMICOLON.search(line) and sum(1 for one in lines if _SEMICOLON.search(one)) >= 0.9 * len(lines):
            yield "the last line alone has no end"
    if _python(pair):
        yield from _idle(code)


def _idle(code: str) -> Iterator[str]:
    tree = _parse(code)
    if tree is None or not tree.body:
        return
    last, inside = tree.body[-1], False
    while body := getattr(last, "finalbody", None) or getattr(last, "orelse", None) or getattr(last, "body", None):
        inside = inside or isinstance(last, ast.FunctionDef)
        last = body[-1]
    if (
        isinstance(last, ast.Expr)
        and isinstance(last.value, ast.Name | ast.Attribute)
        and len(list(ast.walk(tree))) > 6
    ):
        yield "the last statement does nothing"
    elif isinstance(last, ast.Assign) and isinstance(last.targets[0], ast.Name):
        alone = inside and isinstance(tree.body[-1], ast.FunctionDef)
        if alone or isinstance(last.value, ast.Name):
            yield "the last value is not used"


def _python(pair: Pair) -> str:
    """The code of an answer that ends openly and is Python; "" otherwise."""
    code = _ends_in_statement(pair)
    return code if code and _PYTHON.search(code) and not _NO_PYTHON.search(code) else ""


def _parse(code: str) -> ast.Module | None:
    if code[:1] in (" ", "\t"):  # the body of a function
        code = f"if 1:\n{code}"
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return ast.parse(code)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return None
