"""What a library says of its failure, as one sentence for a message of ours."""


def first_line(error: Exception) -> str:
    """Return the first line that says something, or the kind of error; with a full stop."""
    return _sentence(error, 0)


def last_line(error: Exception) -> str:
    """Return the last line that says something: OpenVINO's first say where in its source it was."""
    return _sentence(error, -1)


def _sentence(error: Exception, which: int) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    text = lines[which] if lines else type(error).__name__
    return text if text.endswith(".") else f"{text}."
