"""How often longest match cuts a text elsewhere than jieba's words would, as the article cuts it.

    python -m tests.bench.article_tokenizer [--vocabulary slim_vocab.txt] [--words 60000]

The article's program first cuts the text into words with cppjieba; here the Python jieba does, and
each word that is no token is cut by longest match. Without `--vocabulary`, tokens are the most
frequent words of jieba's own dictionary, every single character and the English words of the text.
"""

from __future__ import annotations

import argparse
import re
from pathlib import Path

import jieba

from runtime.article.longest_match import LongestMatchTokenizer
from runtime.article.vocabulary import read_vocabulary
from runtime.manifest import SpecialTokens

SAMPLE = Path(__file__).parents[1] / "data" / "tokenizer_sample.txt"
BLANK = "\u2581"
NONE_SPECIAL = SpecialTokens(mask=0, gmask=0, bos=0, eos=0, pad=0)


def jieba_vocabulary(words: int, text: str) -> tuple[str, ...]:
    """Frequent words of jieba's dictionary, all characters of the text, and its English words."""
    jieba.initialize()
    counts = {word: count for word, count in jieba.dt.FREQ.items() if count}
    frequent = sorted(counts, key=lambda word: -counts[word])[:words]
    english = re.findall(r"[A-Za-z]+", text)
    pieces = ["<pad>", BLANK, *sorted(set(text)), *english, *(BLANK + one for one in english)]
    return tuple(dict.fromkeys([*pieces, *frequent]))


def cut_by_words(line: str, tokens: frozenset[str], longest: int) -> list[str]:
    """Tokens of jieba's words, each cut by longest match; a blank begins the word behind it."""
    words: list[str] = [BLANK]
    for word in jieba.cut(line):
        if word == " ":
            words.append(BLANK)
        elif words[-1] == BLANK:
            words[-1] += word
        else:
            words.append(word)
    pieces = []
    for word in words:
        at = 0
        while at < len(word):
            ends = range(min(len(word), at + longest), at, -1)
            end = next((one for one in ends if word[at:one] in tokens), at + 1)
            pieces.append(word[at:end])
            at = end
    return pieces


def differing(ours: list[str], theirs: list[str]) -> int:
    """Tokens of `ours` that do not stand at the same place in `theirs`."""

    def spans(pieces: list[str]) -> set[tuple[int, int]]:
        ends = [sum(map(len, pieces[: number + 1])) for number in range(len(pieces))]
        return set(zip([0, *ends], ends, strict=False))

    return len(spans(ours) - spans(theirs))


def main() -> None:
    """Print the counts."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--vocabulary", type=Path)
    parser.add_argument("--words", type=int, default=60000)
    options = parser.parse_args()
    lines = SAMPLE.read_text(encoding="utf-8").splitlines()
    if options.vocabulary is not None:
        tokens = read_vocabulary(options.vocabulary)
    else:
        tokens = jieba_vocabulary(options.words, "".join(lines))
    tokenizer = LongestMatchTokenizer(tokens, NONE_SPECIAL)
    known, longest = frozenset(tokens), max(map(len, tokens))
    lines_differ = tokens_differ = ours_count = theirs_count = 0
    for line in lines:
        ours = [tokens[number] for number in tokenizer.encode(line)]
        theirs = cut_by_words(line, known, longest)
        assert "".join(ours) == "".join(theirs)
        count = differing(ours, theirs)
        if count:
            print("ours  ", "|".join(ours))
            print("jieba ", "|".join(theirs))
        lines_differ += bool(count)
        tokens_differ += count
        ours_count += len(ours)
        theirs_count += len(theirs)
    print(
        f"{len(lines)} lines, {sum(map(len, lines))} characters, {len(tokens)} tokens:"
        f" {lines_differ} lines and {tokens_differ} of {ours_count} tokens differ"
        f" (jieba's cut has {theirs_count})"
    )


if __name__ == "__main__":
    main()
