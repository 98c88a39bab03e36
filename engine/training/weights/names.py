"""Parameters chosen by patterns, such as `encoder.*`."""

import difflib
from collections.abc import Iterable
from fnmatch import fnmatchcase


def matches_any(name: str, patterns: Iterable[str]) -> bool:
    """Return whether one of the patterns matches the name."""
    return any(fnmatchcase(name, pattern) for pattern in patterns)


def matching(pattern: str, names: Iterable[str], key: str, of: str = "parameter of the model") -> set[str]:
    """Return the names that match the pattern; `*` stands for any characters, dots included.

    key, of: the config's key and what the names belong to, for the message. Raises ValueError where none matches; the
    message gives the closest names.
    """
    names = list(names)
    if found := {name for name in names if fnmatchcase(name, pattern)}:
        return found
    parts = [name.split(".") for name in names]
    groups = {".".join(p[:length]) + ".*" for p in parts for length in range(1, len(p))}
    near = difflib.get_close_matches(pattern, sorted(groups) + names, n=3, cutoff=0.5)
    hint = f"did you mean {', '.join(near)}?" if near else f"there are {', '.join(sorted({p[0] for p in parts}))}"
    raise ValueError(f"{key}: {pattern!r} matches no {of}; {hint}")
