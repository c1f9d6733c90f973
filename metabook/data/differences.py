# SPDX-License-Identifier: MIT
"""What differs between two settings, by name."""

from typing import Any

from metabook.data.settings import of_torch

__all__ = ["differences"]


def differences(before: Any, now: Any, name: str = "") -> list[str]:
    """What differs between two described values, by name.

    Of torch's own classes only what both have is compared: a later version may
    have options that an earlier one had not.

    Examples
    --------
    >>> differences({"lr": 0.1, "clip": None}, {"lr": 0.2, "clip": None})
    ['lr (was 0.1, is 0.2)']
    """
    if before == now:
        return []
    if isinstance(before, dict) and isinstance(now, dict):
        kinds = before.get("class"), now.get("class")
        if kinds[0] != kinds[1]:  # the rest is another one's
            return [f"{name} (was a {kinds[0]}, is a {kinds[1]})"]
        keys = list(before | now)
        if of_torch(before.get("class")):
            common = {"modules", *before} & {"modules", *now}
            keys = [key for key in keys if key in common]
        return [
            line
            for key in keys
            for line in differences(
                before.get(key, "not there"),
                now.get(key, "not there"),
                f"{name}.{key}".lstrip("."),
            )
        ]
    if isinstance(before, list) and isinstance(now, list):
        if len(before) == len(now):
            return [
                line
                for i in range(len(now))
                for line in differences(before[i], now[i], f"{name}[{i}]")
            ]
        return [f"{name} (was {len(before)} values, is {len(now)})"]
    return [f"{name} (was {_short(before)}, is {_short(now)})"]


def _short(value: Any) -> str:
    if isinstance(value, dict):
        return f"a {value['class']}" if "class" in value else "another"
    return repr(value)
