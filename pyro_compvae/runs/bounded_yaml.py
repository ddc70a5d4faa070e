"""YAML of unknown origin, read without aliases, and only up to a length and a depth that no configuration needs."""

from __future__ import annotations

from typing import Any

import yaml

from pyro_compvae.errors import ConfigError

MAX_LENGTH = 1 << 16
"""The longest text, in characters; a configuration has about two thousand."""

MAX_DEPTH = 8
"""How deeply lists and mappings may be nested; those of a configuration are nested three deep."""


class _BoundedLoader(yaml.SafeLoader):
    """A loader that refuses aliases, which can double a value as often as there are lines, and deep nesting."""

    depth = 0

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        if self.check_event(yaml.AliasEvent):
            raise ConfigError("configuration: expected values in full, got an alias (*). Write the value again.")
        self.depth += 1
        if self.depth > MAX_DEPTH:
            raise ConfigError(f"configuration: expected at most {MAX_DEPTH} levels of nesting, got more")
        node = super().compose_node(parent, index)
        self.depth -= 1
        return node


def load_yaml(text: str) -> Any:
    """The content of a text, as dictionaries, lists, texts and numbers.

    Raises:
        ConfigError: if the text is no YAML, has aliases, is longer than `MAX_LENGTH`, or nested deeper than
            `MAX_DEPTH`.
    """
    if len(text) > MAX_LENGTH:
        raise ConfigError(f"configuration: expected at most {MAX_LENGTH} characters, got {len(text)}")
    try:
        return yaml.load(text, _BoundedLoader)  # which is a SafeLoader
    except ConfigError:
        raise
    except Exception as error:  # besides its own errors, PyYAML raises those of int, float and datetime
        raise ConfigError(f"configuration: expected YAML, got {text[:40]!r} ({error})") from error
