"""How counts are written in what people read."""


def counted(number: int, word: str) -> str:
    """ "1 image", "2 images", "3 classes": the number and the word, which is given in the singular."""
    if number == 1:
        return f"1 {word}"
    return f"{number} {word}{'es' if word.endswith(('s', 'x', 'ch', 'sh')) else 's'}"
