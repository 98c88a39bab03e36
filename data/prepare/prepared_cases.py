"""Prepared cases: from memory, from the cache on disk, or prepared now."""

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from configs import Config
from data.prepare.cache import Cache, Entry, cache_key


def open_cache(config: Config) -> Cache:
    """Open the cache that the config names, by default below run.dir."""
    settings = config.data.cache
    return Cache(settings.folder or config.run.dir / ".cache", settings.limit_gb * 1e9)


class Store:
    """Entries by name. Without a cache nothing is kept, and each is made at every call. Safe under threads."""

    def __init__(self, cache: Cache | None) -> None:
        self._cache = cache
        self._keys: dict[str, str] = {}
        self._memory: dict[str, Entry] = {}

    def entry(
        self, name: str, files: Iterable[Path], parameters: Mapping[str, Any], make: Callable[[], Entry]
    ) -> Entry:
        """Return the entry of that name; it depends on `files` and `parameters` alone, the same at each call."""
        held = self._memory.get(name)
        if held is not None:
            return held
        if self._cache is None:
            return make()
        if name not in self._keys:
            self._keys[name] = cache_key(files, parameters)
        key = self._keys[name]
        entry = self._cache.get(key)
        if entry is None:
            made = make()
            self._cache.put(key, made.arrays, made.facts)
            entry = self._cache.get(key) or made
        return entry

    def hold(self, names: Iterable[str]) -> None:
        """Load these entries, stored before, into memory, in place of those held so far."""
        held = {}
        for name in names:
            entry = None if self._cache is None else self._cache.get(self._keys[name], in_memory=True)
            if entry is not None:
                held[name] = entry
        self._memory = held
