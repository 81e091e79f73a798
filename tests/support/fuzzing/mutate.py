"""Damage valid files: their bytes, the values of their JSON, the words of their text."""

from __future__ import annotations

import json
import re
import struct
from collections.abc import Callable, Sequence
from random import Random
from typing import Any

Mutator = Callable[[Random, Sequence[bytes]], bytes]

_PLAIN_NUMBERS = """
0 -1 1 2 7 0.1 -0.0 1e308 1e400 1e-320 NaN Infinity -Infinity null true 0x10 1_000 ١٢
"""
_PLAIN_TEXTS = """
../../etc/passwd /etc/passwd a/../../b ..\\..\\b C:\\b ~ $HOME %s ' (a+)+$ nan -1 model block_0
lm_head llama chatglm int4 <|im_end|>
"""
_LARGE = (10**12, 2**31, 2**32 - 1, 2**63, -(2**63), 10**400)
_NUMBERS = [*_PLAIN_NUMBERS.split(), *map(str, _LARGE), "1" * 5000]
_TEXTS = [
    *_PLAIN_TEXTS.split(),
    *("", " ", "\r\n", "\0", "\x1b[2J", '"', "\ud800", "\ufdd0", "\ufdd1", "{{ 7 }}"),
    *("é" * 200, "x" * 70_000),
]
_MARKS = list("[]{}\"',:=\n\0\x1b#\\\t-٢\ufeff")
_SNIPPETS = [
    *_MARKS,
    *("[" * 3000, '{"a":' * 3000, "[\n" * 200, "[[a]]\n", "a.b.c = 1\n", "a." * 400 + "b = 1\n"),
    *("{% for i in range(10**9) %}x{% endfor %}", "{% raw %}", "{{ messages[10**9] }}"),
    *("{{ x.__class__ }}", "{{ 'a' * 10**9 }}", "{{ 10 ** 10 ** 7 }}", "inf", "nan", "1e999"),
]
_LITTLE = [0, 1, 2, 7, 127, 255, *(1 << bits for bits in (15, 31, 32, 40)), (1 << 63) - 1]
_NUMBER_IN_TEXT = re.compile(rb"-?\d+(?:\.\d+)?")


def mutate_binary(random: Random, seeds: Sequence[bytes]) -> bytes:
    """One to four changes of bytes: flips, numbers, cuts, copies, pieces of another seed."""
    content = bytearray(random.choice(seeds))
    for _ in range(random.choice((1, 1, 2, 4))):
        # Headers come first and decide most.
        end = len(content) if random.random() < 0.5 else min(len(content), 512)
        at = random.randrange(end + 1)
        kind = random.randrange(8)
        if kind == 0 and at < len(content):
            content[at] ^= 1 << random.randrange(8)
        elif kind == 1 and at < len(content):
            content[at] = random.choice((0, 1, 0x7F, 0x80, 0xFF, random.randrange(256)))
        elif kind == 2:
            size, layout = random.choice(((2, "<H"), (4, "<I"), (8, "<Q")))
            number = random.choice(_LITTLE) + random.choice((-1, 0, 0, 1))
            content[at : at + size] = struct.pack(layout, number % (1 << 8 * size))
        elif kind == 3:
            del content[at : at + random.choice((1, 4, 16, 256))]
        elif kind == 4:
            del content[at:]
        elif kind == 5:
            content[at:at] = content[at : at + random.choice((1, 8, 64, 1024))]
        elif kind == 6:
            other = random.choice(seeds)
            start = random.randrange(len(other) + 1)
            content[at : at + 64] = other[start : start + random.choice((8, 64, 512))]
        else:
            content[at:at] = random.randbytes(random.choice((1, 3, 17)))
    return bytes(content)


def mutate_text(random: Random, seeds: Sequence[bytes]) -> bytes:
    """Changes of numbers, lines and punctuation, and now and then of single bytes."""
    content = random.choice(seeds)
    for _ in range(random.choice((1, 1, 2, 3))):
        kind = random.randrange(6)
        lines = content.splitlines(keepends=True)
        if kind == 0 and (found := list(_NUMBER_IN_TEXT.finditer(content))):
            one = random.choice(found)
            number = random.choice(_NUMBERS).encode()
            content = content[: one.start()] + number + content[one.end() :]
        elif kind == 1:
            at = random.randrange(len(content) + 1)
            content = content[:at] + _encoded(random.choice(_SNIPPETS)) + content[at:]
        elif kind == 2 and lines:
            lines.insert(random.randrange(len(lines) + 1), random.choice(lines))
            content = b"".join(lines)
        elif kind == 3 and lines:
            del lines[random.randrange(len(lines))]
            content = b"".join(lines)
        elif kind == 4 and (strings := list(re.finditer(rb'"[^"\n]*"', content))):
            one = random.choice(strings)
            text = json.dumps(random.choice(_TEXTS)).encode()
            content = content[: one.start()] + text + content[one.end() :]
        else:
            content = mutate_binary(random, [content])
    return content


def mutate_json(random: Random, seeds: Sequence[bytes]) -> bytes:
    """Changes of a document's values and keys, and of the text that spells it."""
    if random.random() < 0.15:
        return mutate_text(random, seeds)
    try:
        document = json.loads(random.choice(seeds))
    except ValueError:
        return mutate_text(random, seeds)
    for _ in range(random.choice((1, 1, 2, 3))):
        document = _change(random, document)
    text = json.dumps(document)
    if random.random() < 0.1:  # a key that comes twice
        text = text.replace("{", '{"a": 1, "a": 2, ', 1)
    for mark, number in _UNSPELT.items():
        text = text.replace(f'"{mark}"', number)
    return text.encode()


# What json.dumps cannot spell is put in afterwards.
_UNSPELT = {f"@number{index}@": text for index, text in enumerate(_NUMBERS)}
_UNSPELT |= {"@deep@": "[" * 900 + "]" * 900, "@deeper@": "[" * 60_000 + "]" * 60_000}


def mutate_words(random: Random, seeds: Sequence[bytes]) -> bytes:
    """A command line, as a JSON list: words of several, put together and bent."""
    words: list[str] = json.loads(random.choice(seeds))
    others: list[str] = json.loads(random.choice(seeds))
    for _ in range(random.randint(0, 3)):
        at = random.randrange(1, len(words) + 1)
        kind = random.randrange(5)
        if kind == 0:
            words[at:at] = others[1 : 1 + random.randint(0, 4)]
        elif kind == 1 and at < len(words):
            words[at] = random.choice((*_NUMBERS, *_TEXTS))
        elif kind == 2 and at < len(words):
            del words[at]
        elif kind == 3 and at < len(words):
            words[at] = re.sub(r"\d+(\.\d+)?", random.choice(_NUMBERS), words[at])
        elif at < len(words) and words[at]:
            spot = random.randrange(len(words[at]))
            words[at] = words[at][:spot] + random.choice(_MARKS) + words[at][spot + 1 :]
    return json.dumps(words).encode()


def _change(random: Random, document: Any) -> Any:
    """Put something else in the place of one value, or rename, drop or copy a key."""
    places = list(_places(document))
    if not places:
        return _odd(random)
    holder, key = random.choice(places)
    kind = random.randrange(6)
    if kind == 0:
        del holder[key]
    elif kind == 1 and isinstance(holder, dict):
        holder[random.choice(_TEXTS)] = holder.pop(key)
    elif kind == 2:
        other, name = random.choice(places)
        with_value = other[name] if _has(other, name) else None
        holder[key] = json.loads(json.dumps(with_value))
    elif kind == 3 and isinstance(holder, list):
        holder.extend(json.loads(json.dumps(holder[:100])))
    else:
        holder[key] = _odd(random)
    return document


def _has(holder: Any, key: Any) -> bool:
    return key in holder if isinstance(holder, dict) else key < len(holder)


def _places(value: Any) -> list[tuple[Any, Any]]:
    found: list[tuple[Any, Any]] = []
    waiting = [value]
    while waiting:
        one = waiting.pop()
        if isinstance(one, (dict, list)):
            keys = list(one) if isinstance(one, dict) else range(len(one))
            # Of long lists and vocabularies a few entries stand for all.
            some = keys if len(keys) <= 40 else [*keys[:20], *keys[-5:]]
            found += [(one, key) for key in some]
            waiting += [one[key] for key in some]
    return found


def _odd(random: Random) -> Any:
    kind = random.randrange(4)
    if kind == 0:
        return random.choice(list(_UNSPELT))
    if kind == 1:
        return random.choice(_TEXTS)
    if kind == 2:
        return random.choice((None, True, False, [], {}, [[]], {"a": None}, [None] * 50, 0, 1, -1))
    return random.choice((10**12, 2**31, -(2**63), 1e300, 0.5, 10**30, 65_536, 3))


def _encoded(text: str) -> bytes:
    return text.encode("utf-8", "surrogatepass")
