"""Settings that come from the environment, and configuration files whose keys are checked."""

from __future__ import annotations

import dataclasses
import os
import types
import typing
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from harness.errors import DataError, UnknownNameError, UsageError

CACHE_VARIABLE = "UZBENCH_CACHE"

T = TypeVar("T")


def cache_dir() -> Path:
    """Where converted models and digests are kept: UZBENCH_CACHE, else uzbench in the user's cache."""
    named = os.environ.get(CACHE_VARIABLE)
    if named:
        return Path(named)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "uzbench"


def read_yaml(path: Path) -> dict[str, Any]:
    """A YAML file whose top is a mapping.

    Raises DataError with line and reason, UsageError for a missing file.
    """
    import yaml

    try:
        text = Path(path).read_text(encoding="utf-8")
    except FileNotFoundError:
        raise UsageError(f"{path}: no such file.") from None
    except (IsADirectoryError, UnicodeDecodeError) as error:
        raise DataError(path, f"not a YAML file ({error})") from None
    try:
        document = yaml.safe_load(text)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        reason = getattr(error, "problem", None) or str(error)
        raise DataError(path, f"not YAML: {reason}", line=mark.line + 1 if mark else None) from None
    if not isinstance(document, dict):
        raise DataError(path, f"expected keys and values, saw {type(document).__name__}")
    return document


def build(cls: type[T], values: Mapping[str, Any], *, source: object) -> T:
    """A dataclass from a mapping: unknown keys refused with the nearest name, types checked.

    An int serves where a float is wanted; "2e-4", which YAML reads as text, serves as a float too.
    Raises UnknownNameError, UsageError.
    """
    hints = typing.get_type_hints(cls)
    for key in values:
        if key not in hints:
            raise UnknownNameError(f"{source}: key", key, hints, f"All keys: {', '.join(sorted(hints))}.")
    required = [
        field.name
        for field in dataclasses.fields(cls)  # type: ignore[arg-type]
        if field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
    ]
    for name in required:
        if name not in values:
            raise UsageError(f"{source}: key {name!r} is missing.")
    return cls(**{key: _checked(value, hints[key], f"{source}: {key}") for key, value in values.items()})


def _checked(value: Any, hint: Any, where: str) -> Any:
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        if value is None and type(None) in arguments:
            return None
        (hint,) = (part for part in arguments if part is not type(None))
        return _checked(value, hint, where)
    if origin is typing.Literal:
        if value not in arguments:
            raise UnknownNameError(where, str(value), map(str, arguments), f"One of: {', '.join(arguments)}.")
        return value
    if origin is tuple:
        if not isinstance(value, Sequence) or isinstance(value, str):
            raise UsageError(f"{where}: expected a list, saw {value!r}.")
        return tuple(_checked(part, arguments[0], where) for part in value)
    if origin is dict:
        if not isinstance(value, Mapping):
            raise UsageError(f"{where}: expected names and values, saw {value!r}.")
        return {str(key): _checked(part, arguments[1], f"{where}: {key}") for key, part in value.items()}
    if hint is float and isinstance(value, (int, str)) and not isinstance(value, bool):
        try:
            return float(value)
        except ValueError:
            pass
    if not isinstance(value, hint) or (hint is not bool and isinstance(value, bool)):
        raise UsageError(f"{where}: expected {hint.__name__}, saw {value!r}.")
    return value
