"""Our own reading of answers, kept beside the official one: it shows what VLMEvalKit's parser costs a model.

The headline is always the official rule. This one reads `\\boxed{\\text{B}}`, `<answer>b</answer>`, "Therefore, B",
"答案是（Ｂ）" and "Yes, no doubt"; it does not read "A dog runs" as option A, "Not sure" as No, nor "A or B" as A.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Mapping

from armor_eval.tasks.understanding.thinking import strip_thoughts
from armor_model.base.jsons import JsonView
from armor_model.base.parsing import literal_of

_WRAPPERS = " \t\r\n*_\"'`“”‘’([{<「【《.:,;!-$\\"
_ANSWER_TAG = re.compile(r"<answer>(.*?)(?:</answer>|\Z)", re.IGNORECASE | re.DOTALL)
_BOX_TAG = re.compile(r"<\|begin_of_box\|>(.*?)(?:<\|end_of_box\|>|\Z)", re.DOTALL)
"""GLM-4.1V's box."""
_BOXED = re.compile(r"\\f?boxed\s*\{")
_MACRO = re.compile(r"\\(?:text(?:bf|it|rm|sf|tt)?|math(?:bf|it|rm|sf|tt)|mbox|bm|boldsymbol)\s*\{([^{}]*)\}")

# --- yes and no ------------------------------------------------------------------------------------------------------
_UNSURE = re.compile(
    r"\bnot\W+(?:(?:\w+ly|entirely|so|too|quite|very)\W+)?(?:sure|certain|clear|enough|possible|able|known|specified|"
    r"given|applicable|necessarily|determin\w*|stated|mentioned|answerable)\b"
    r"|\bno\W+(?:idea|doubt|question|answer|comment|information|info|way|clue|problem|matter)\b"
    r"|\b(?:cannot|can't|can not|couldn't|could not|don't|do not|won't|unable to|impossible to|hard to|difficult to)\W+"
    r"(?:\w+\W+){0,2}?(?:say|tell|answer|determine|confirm|know|see if|see whether)\b(?:\W+(?:yes|no)\b)?"
    r"|\bn\s*/\s*a\b|无法|不确定|不知道|不清楚|(?:是否|是不是|有没有|有无)[^。,:;?\n]*",
    re.IGNORECASE,
)
"""Words of doubt that hold a `no` or `not` without meaning it: they are taken out before the answer is looked for."""
_BOTH = re.compile(r"\b(?:yes\W+(?:and|&)\W+no|no\W+(?:and|&)\W+yes|neither\W+yes\W+nor\W+no)\b", re.IGNORECASE)
_EITHER = re.compile(r"\b(?:yes\s*(?:or|/|\|)\s*no|no\s*(?:or|/|\|)\s*yes)\b", re.IGNORECASE)
"""An echo of the question's `answer yes or no`."""
_NOT_YES = re.compile(r"\bnot\W+yes\b", re.IGNORECASE)
_NOT_NO = re.compile(r"\bnot\W+(?:a\W+)?no\b", re.IGNORECASE)
_YES_WORDS = r"(?:yes|yeah|yep|yup|true|correct|right)"
_NO_WORDS = r"(?:no|nope|nah|false|incorrect|wrong)"
_FINAL_YES_NO = re.compile(
    r"(?:\banswer\W*?(?:is|:|=|would be|should be|must be)|\b(?:therefore|thus|hence|so)\b|答案\s*(?:是|为)?)"
    rf"[^\w\n]*(?:(?P<yes>{_YES_WORDS}\b|是的|是|对|正确)|(?P<no>{_NO_WORDS}\b|不是|否|不|没有|错))(?!\w*\s*\?)",
    re.IGNORECASE,
)
_ASSURED_NO = re.compile(
    r"(?:certainly|definitely|absolutely|surely|sure|of course|probably|clearly|obviously)\W+not\b", re.IGNORECASE
)
_HEAD_NO = re.compile(rf"(?:{_NO_WORDS}|not)\b|n(?=\W*$|[.,;:)]\s)|不是|不正确|否|不|没有|没|错|无", re.IGNORECASE)
_HEAD_YES = re.compile(
    rf"(?:{_YES_WORDS}|sure|certainly|definitely|absolutely|of course)\b|y(?=\W*$|[.,;:)]\s)|是|对|正确|有",
    re.IGNORECASE,
)


def read_yes_no(text: str) -> str | None:
    """`Yes`, `No`, or None: a stated answer decides, then the first word, then the only word of its kind."""
    body = _body(text)
    if _BOTH.search(body):
        return None
    body = _NOT_NO.sub(" ", _NOT_YES.sub(" no ", _EITHER.sub(" ", _UNSURE.sub(" ", body))))
    stated = [("Yes" if hit["yes"] else "No") for hit in _FINAL_YES_NO.finditer(body)]
    if stated:
        return stated[-1]
    head = body.lstrip(_WRAPPERS)
    if _ASSURED_NO.match(head) or _HEAD_NO.match(head):
        return "No"
    if _HEAD_YES.match(head):
        return "Yes"
    words = set(re.findall(r"\b(?:yes|no)\b(?!\s*\?)", body.lower()))
    if ("yes" in words) != ("no" in words):
        return "Yes" if "yes" in words else "No"
    return None


def read_first_four(text: str) -> str | None:
    """`Yes` or `No` by the rule of MME's own evaluation tool (calculation.py): what the first four characters hold."""
    head = text.lower()[:4]
    return "Yes" if "yes" in head else "No" if "no" in head else None


# --- options ---------------------------------------------------------------------------------------------------------
_STATED = re.compile(
    r"(?:\b(?:answer|option|choice)\b\W*?(?:is|:|=|->|→|would be|should be|must be|will be)(?!\w)"
    r"|\b(?:therefore|thus|hence|so|finally)\b(?:\W+(?:the\s+)?(?:answer|option|choice|it)\s*(?:is|'s))?"
    r"|\b(?:choose|chose|select|pick|go with|it is|it's|i say)\b(?:\s+(?:option|choice|answer))?"
    r"|答案\s*(?:应该|应当|应)?\s*(?:是|为|选择|选)?|(?:故选|应选|选择|选项?)\s*(?:是|为)?|(?:因此|所以)(?:选择|选|是)?)"
    r"\s*[:,=]?\s*(?:(?:option|choice|选项)\s*)?[*_\"'`“‘(\[{【「$\\]*\s*",
    re.IGNORECASE,
)
"""What a chosen letter stands behind."""
_PRONOUN = r"(?!\s+(?:think|believe|guess|am|would|do|don't|can|cannot|can't|have|will|see)\b|'(?:m|d|ve|ll)\b)"
"""`I` is a letter of MMMU's longest option lists, and a word."""


def read_option(text: str, options: JsonView) -> str | None:
    """The letter of the option that the text chooses, or None where it chooses none or several."""
    body = _body(text).strip()
    letters = "".join(options)
    if not body or not letters:
        return None
    either = f"{letters}{letters.lower()}"
    if alone := _alone(body, either):
        return alone
    if _chooses_several(body, letters):
        return None
    if stated := _stated(body, letters, either):
        return stated
    if _lists_options(body, letters):
        return None
    lines = [line for line in body.splitlines() if line.strip()]
    for letter in (_head(body, letters), _alone(lines[-1], either), _unique(body, letters)):
        if letter:
            return letter
    return _by_content(body, options)


def _alone(text: str, either: str) -> str | None:
    """A letter and nothing else but marks: `b`, `(B).`, `**B**`."""
    hit = re.fullmatch(rf"[\W_]*([{either}])[\W_]*", text)
    return hit[1].upper() if hit else None


def _chooses_several(body: str, letters: str) -> bool:
    """`A or B`, `A, B and C` at the start or behind `the answer is`."""
    several = re.compile(
        rf"[*_(\[\s]*[{letters}][)\]*_]*\s*(?:[,/&+、]|or\b|and\b|或|和)\s*(?:or\s|and\s)?[*_(\[]*[{letters}](?!\w)"
    )
    starts = [0, *(hit.end() for hit in _STATED.finditer(body))]
    return any(several.match(body, start) for start in starts)


def _lists_options(body: str, letters: str) -> bool:
    """`A. dog B. cat C. cow`: the options said again."""
    listed = re.findall(rf"(?<!\w)([{letters}])[)\].:](?!\w)", body)
    return body.lstrip(" (*[")[:1] == letters[0] and len(set(listed)) > 2


def _stated(body: str, letters: str, either: str) -> str | None:
    """The letter of the last statement; a lower-case one only where no word follows (`the answer is a dog`)."""
    for hit in reversed(list(_STATED.finditer(body))):
        after = re.match(
            rf"([{letters}])(?![A-Za-z0-9_']|\s*\?){_PRONOUN}|([{either}])(?=\W*$|[.,;:)\]}}*\n](?:\W|$))",
            body[hit.end() :],
        )
        if after:
            return (after[1] or after[2]).upper()
    return None


def _head(body: str, letters: str) -> str | None:
    """A letter that opens the text, set off by a bracket or a point: `(B) because`, `B. cat`, `b) cat`."""
    upper = rf"([{letters}])\s*(?:[)\]}}】.:,;*_\"'`]|\n)"
    lower = rf"([{letters.lower()}])\s*(?:[)\]】]|[.:](?:\s|\*))"
    hit = re.match(rf"[*_\"'`\s$\\]*[(\[{{【]?\s*(?:{upper}|{lower})", body)
    return (hit[1] or hit[2]).upper() if hit else None


def _unique(body: str, letters: str) -> str | None:
    """The only letter in bold or brackets, else the only one that is called an option."""
    marked = set(re.findall(rf"[(\[【]([{letters}])[)\]】]|\*\*\(?([{letters}])\)?(?:[.:)][^*]*)?\*\*", body))
    named = set(re.findall(rf"\b(?:[Oo]ption|[Cc]hoice|[Aa]nswer)\s+([{letters}])(?!\w|\s*\?)", body))
    for letters_found in ({a or b for a, b in marked}, named):
        if len(letters_found) == 1:
            return letters_found.pop()
    return None


def _by_content(body: str, options: JsonView) -> str | None:
    """The only option whose words stand in the text; an option inside another one's words does not count."""
    low = body.lower()
    words = {k: unicodedata.normalize("NFKC", str(v)).strip().lower() for k, v in options.items()}
    mentioned = {k: v for k, v in words.items() if v and _mentions(low, v)}
    longest = [k for k, v in mentioned.items() if not any(v != w and v in w for w in mentioned.values())]
    return longest[0] if len(longest) == 1 else None


def _mentions(low: str, words: str) -> bool:
    """The words stand in the text as words of their own (Chinese knows no space), as a whole number, not denied."""
    before = r"(?<!\w)(?<!\d[.,])(?<!-)" if words[0].isdigit() else "" if _is_han(words[0]) else r"(?<!\w)"
    after = r"(?![.,]?\d)(?!\w)" if words[-1].isdigit() else "" if _is_han(words[-1]) else r"(?!\w)"
    denied = r"(?<!\bnot )(?<!\bnot a )(?<!\bnot an )(?<!\bnot the )(?<!\bno )(?<!不是)"
    return re.search(f"{denied}{before}{re.escape(words)}{after}", low) is not None


def _is_han(letter: str) -> bool:
    return "\u3400" <= letter <= "\u9fff"


# --- both ------------------------------------------------------------------------------------------------------------
def _body(text: str) -> str:
    """The part that answers, in plain half-width letters: no thoughts, from inside `<answer>` and the last box."""
    text = unicodedata.normalize("NFKC", strip_thoughts(text)).replace("’", "'")
    for inner in (_tagged(text, _ANSWER_TAG), _tagged(text, _BOX_TAG)):
        text = inner or text
    return _boxed(text) or text


def _tagged(text: str, tag: re.Pattern[str]) -> str | None:
    contents = [inner for inner in tag.findall(text) if inner.strip()]
    return contents[-1] if contents else None


def _boxed(text: str) -> str | None:
    """The inside of the last `\\boxed{...}` with braces in balance, without \\text{} and the like; None without one."""
    starts = [hit.end() for hit in _BOXED.finditer(text)]
    closed_by = _closing_braces(text) if starts else {}
    for start in reversed(starts):
        inner = text[start : closed_by.get(start - 1, start)]
        while (plain := _MACRO.sub(r"\1", inner)) != inner:
            inner = plain
        if inner.strip():
            return inner.strip()
    return None


def _closing_braces(text: str) -> dict[int, int]:
    """Place of each opening brace -> place of the one that closes it; one pass, however many are never closed."""
    pairs, opened = {}, []
    for brace in re.finditer(r"[{}]", text):
        if brace[0] == "{":
            opened.append(brace.start())
        elif opened:
            pairs[opened.pop()] = brace.start()
    return pairs


# --- MMMU's own answer parser without the random draw: a second line beside the headline -----------------------------
# Source: MMMU-Benchmark/MMMU, mmmu/utils/eval_utils.py (parse_multi_choice_response, parse_open_response, eval_open).
# Where that program draws an option at random because it can read none, this one reads nothing, which counts as wrong.


_TRIMMED = (",", ".", "!", "?", ";", ":", "'")
_KEY_WORDS = ("could be ", "so ", "is ", "thus ", "therefore ", "final ", "answer ", "result ")
"""What stands in front of an answer in a sentence; in the last sentence `=` does too."""
_SENTENCE_END = re.compile(r"\.\s(?=[A-Z])|\n")
_NUMBERS = (
    re.compile(r"-?\b\d{1,3}(?:,\d{3})+\b"),
    re.compile(r"-?\d+(?:\.\d+)?[eE][+-]?\d+"),
    re.compile(r"-?(?:\d+\.\d+|\.\d+|\d+\b)(?![eE][+-]?\d+)(?![,\d])"),
)
"""With thousands' commas, in scientific notation, plain."""


def read_choice(text: str, options: JsonView) -> str | None:
    """The option that the text names last: as `(B)`, else as ` B `, else by its words; None where it names none."""
    for mark in _TRIMMED:
        text = text.strip(mark)
    text = f" {text} "
    low = text.lower()
    for shape in ("({})", " {} "):
        places = {letter: text.rfind(shape.format(letter)) for letter in options}
        if max(places.values(), default=-1) >= 0:
            return _last(places)
    if len(text.split()) <= 5:
        return None
    places = {letter: low.rfind(str(words).lower()) for letter, words in options.items()}
    return _last(places) if max(places.values(), default=-1) >= 0 else None


def _last(places: Mapping[str, int]) -> str:
    """The key with the largest place, the first of equals."""
    return max(places, key=lambda letter: places[letter])


def read_open(text: str) -> list[str | float]:
    """What the text may mean as an answer to an open question: the tails behind key words, and the numbers in them."""
    tails = _tails(text)
    numbers = [number for tail in tails for pattern in _NUMBERS for number in pattern.findall(tail)]
    return list(dict.fromkeys(value for candidate in [*tails, *numbers] for value in _normal(candidate)))


def is_right(read: list[str | float], gold: str) -> bool:
    """Whether any reading holds a gold answer's text, or is its number to two decimals."""
    wanted = [value for answer in gold_answers(gold) for value in _normal(answer)]
    for value in read:
        if isinstance(value, str):
            if any(isinstance(answer, str) and answer in value for answer in wanted):
                return True
        elif value in wanted:
            return True
    return False


def gold_answers(cell: str) -> list[str]:
    """The right answers of an open question: its cell's text, or a list written as Python source."""
    if cell.startswith("[") and cell.endswith("]"):
        try:
            parsed = literal_of(cell)
        except ValueError:
            return [cell]
        return [str(one) for one in parsed] if isinstance(parsed, list) else [cell]
    return [cell]


def _tails(text: str) -> list[str]:
    """Of each sentence the shortest piece behind a key word; the whole text where no sentence has one."""
    # Lowered before it is split, as in the source: sentences then end at line breaks alone.
    text = text.strip().strip(".").lower()
    sentences = _SENTENCE_END.split(text)
    tails = []
    for n, sentence in enumerate(sentences):
        words = (*_KEY_WORDS, "=") if n == len(sentences) - 1 else _KEY_WORDS
        shortest = ""
        for tail in [sentence.split(word)[-1].strip() for word in words if word in sentence]:
            if not shortest or len(tail) < len(shortest):
                shortest = tail
        if shortest and shortest not in _TRIMMED:
            tails.append(shortest)
    return tails or [text]


def _normal(text: str) -> list[str | float]:
    """A number to two decimals; else lower-case text, a single character only with a space beside it."""
    text = text.strip()
    try:
        return [round(float(text.replace(",", "")), 2)]
    except ValueError:
        low = text.lower()
        return [f" {low}", f"{low} "] if len(low) == 1 else [low]
